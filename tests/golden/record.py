"""Records what PyTorch does, for tests/golden_test.cpp to repeat: trajectories of trained factors.

    python tests/golden/record.py [OUT.safetensors]         torch==2.13.0, safetensors

The problem is a two-layer network, logits = tanh(x W1ᵀ) W2ᵀ with soft targets y and softmax
cross-entropy, in float64 on one thread. Its weights are written as differentiable expressions of
the factors (W = W0 + s u v …), the gradients of the factors come from autograd and their steps from
torch.optim: LoRA as everybody trains it. GradView sees the gradient of W alone.

Every tensor has two dimensions. `x`, `y` and `start.NAME` (the weights) are shared by the cases; of
a case CASE there are CASE.loss [1, 501], before each step and after the last, and for each weight
CASE.NAME, CASE.NAME.u and CASE.NAME.v [6, size]: a row after each of KEPT steps, flattened. The
metadata's `cases` has one line per case: its name and what the columns of COLUMNS say.
"""

import dataclasses
import functools
import json
import math
import pathlib
import random
import sys

import safetensors.torch
import torch
from torch.optim import SGD, Adam, AdamW

STEPS = 500
KEPT = (0, 1, 2, 10, 100, 500)
TOKENS = 48
SHAPES = {"fc1.weight": (8, 7), "fc2.weight": (4, 8)}
HEAD = "fc2.weight"  # before the softmax: the columns of its gradient sum to zero
RANK, ALPHA = 3, 5.0
SCALES = {"standard": ALPHA / RANK, "rslora": ALPHA / math.sqrt(RANK)}
COLUMNS = "projector optimizer lr schedule clip accumulate"
BETAS = {"betas": (0.8, 0.99), "eps": 1e-6}
PACKAGES = ["torch==2.13.0", "numpy", "safetensors"]
FILE = pathlib.Path(__file__).with_name("torch.safetensors")


@dataclasses.dataclass
class Case:
    name: str
    projector: str  # as GradView spells it
    weights: callable  # (name, W0) → the trained tensors by name, and a function that gives W
    optimizer: str  # as GradView spells it
    rule: callable  # parameters → torch.optim optimizer
    lr: float
    schedule: str = "constant"
    clip: float = math.inf
    accumulate: int = 1

    def line(self):
        columns = (getattr(self, column) for column in COLUMNS.split())
        return " ".join([self.name, *map(str, columns)])


def uniform(shape, key):
    """Entries in (−1, 1) from Python's Mersenne Twister, which is the same everywhere."""
    rng = random.Random(key)
    rows = [[2 * rng.random() - 1 for _ in range(shape[1])] for _ in range(shape[0])]
    return torch.tensor(rows, dtype=torch.float64)


def data():
    x = math.sqrt(3) * uniform((TOKENS, SHAPES["fc1.weight"][1]), "x")  # of variance 1
    teacher = {name: 1.5 * uniform(shape, f"teacher {name}") for name, shape in SHAPES.items()}
    noise = uniform((TOKENS, SHAPES[HEAD][0]), "noise")
    y = torch.softmax(logits(teacher, x) + noise, dim=1)
    start = {name: uniform(shape, f"start {name}") / 2 for name, shape in SHAPES.items()}
    return x, y, start


def logits(weights, x):
    return torch.tanh(x @ weights["fc1.weight"].T) @ weights["fc2.weight"].T


def full(_, w0):
    w = w0.clone().requires_grad_()
    return {"w": w}, lambda: w


def lora(scale, live=False, trains_v=True):
    """u = 0 at first as PEFT has it; live: both factors, with W0 − s u0 v0 frozen beside them."""

    def weights(name, w0):
        m, n = w0.shape
        u = 0.3 * uniform((m, RANK), f"u {name}") if live else w0.new_zeros((m, RANK))
        v = uniform((RANK, n), f"v {name}") / math.sqrt(n)
        base = w0 - scale * (u @ v)
        u.requires_grad_()
        v.requires_grad_(trains_v)
        return {"u": u, "v": v}, lambda: base + scale * (u @ v)

    return weights


def additive(rank):
    """W = W0 + u J_n + J_mᵀ v, rows of J of unit length; at rank 1 the head's v has no gradient."""

    def frame(d):
        j = torch.eye(rank, dtype=torch.float64).repeat(1, -(-d // rank))[:, :d]
        return j / j.sum(dim=1, keepdim=True).sqrt()

    def weights(name, w0):
        m, n = w0.shape
        u = w0.new_zeros((m, rank), requires_grad=True)
        v = w0.new_zeros((rank, n), requires_grad=rank > 1 or name != HEAD)
        return {"u": u, "v": v}, lambda: w0 + u @ frame(n) + frame(m).T @ v

    return weights


def cases():
    rules = {  # name: GradView's spec, torch's class and arguments, lr
        "sgd": ("sgd", SGD, {}, 0.05),
        "momentum": ("sgd:momentum=0.9", SGD, {"momentum": 0.9}, 0.01),
        "nesterov": (
            "sgd:momentum=0.9,nesterov=true",
            SGD,
            {"momentum": 0.9, "nesterov": True},
            0.01,
        ),
        "decay": ("sgd:weight_decay=0.02", SGD, {"weight_decay": 0.02}, 0.05),
        "adam": ("adam", Adam, {}, 0.003),
        "betas": ("adam:beta1=0.8,beta2=0.99,eps=1e-06", Adam, BETAS, 0.002),
        "adamw": ("adamw:weight_decay=0.1", AdamW, {"weight_decay": 0.1}, 0.003),
    }
    made = []

    def add(name, projector, weights, rule, **more):
        spec, optimizer, arguments, lr = rules[rule]
        rule = functools.partial(optimizer, lr=lr, **arguments)
        made.append(Case(name, projector, weights, spec, rule, lr, **more))

    spec = f"lora:rank={RANK},alpha={ALPHA:g}"
    standard = lora(SCALES["standard"])
    for rule in ("sgd", "momentum", "nesterov", "decay", "adam", "adamw"):
        add(f"lora_{rule}", spec, standard, rule)
        add(f"rslora_{rule}", f"{spec},scaling=rslora", lora(SCALES["rslora"]), rule)
    add("lora_betas", spec, standard, "betas")
    add("lora_live_adam", spec, lora(SCALES["standard"], live=True), "adam")
    add("lora_cosine_adam", spec, standard, "adam", schedule="cosine")
    add("lora_clip_momentum", spec, standard, "momentum", clip=0.1)
    add("lora_accumulate_adam", spec, standard, "adam", accumulate=2)
    frozen_v = lora(SCALES["standard"], trains_v=False)
    add("lora_fa_adam", f"lora_fa:rank={RANK},alpha={ALPHA:g}", frozen_v, "adam")
    add("additive1_adam", "additive:rank=1", additive(1), "adam")
    add("additive3_adam", "additive:rank=3", additive(3), "adam")
    for rule in ("momentum", "decay", "adam", "adamw"):
        add(f"full_{rule}", "full", full, rule)
    return made


def clip(parameters, limit):
    # torch divides by norm + 1e-6, GradView by the norm.
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm - 1e-6)


def train(case, x, y, start):
    """The tensors of one case."""
    made = {name: case.weights(name, w0) for name, w0 in start.items()}
    parameters = [t for tensors, _ in made.values() for t in tensors.values() if t.requires_grad]
    optimizer = case.rule(parameters)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    losses, kept = [], {}
    for step in range(STEPS + 1):
        optimizer.zero_grad()
        losses.append(0.0)
        for xs, ys in zip(x.chunk(case.accumulate), y.chunk(case.accumulate)):
            weights = {name: weight() for name, (_, weight) in made.items()}
            loss = torch.nn.functional.cross_entropy(logits(weights, xs), ys) / case.accumulate
            loss.backward()
            losses[-1] += loss.item()
        if step in KEPT:
            for name, (tensors, weight) in made.items():
                now = {name: weight(), **{f"{name}.{f}": t for f, t in tensors.items() if f != "w"}}
                for key, value in now.items():
                    row = value.detach().flatten().clone()
                    kept.setdefault(f"{case.name}.{key}", []).append(row)
        if math.isfinite(case.clip):
            clip(parameters, case.clip)
        optimizer.step()
        if case.schedule == "cosine":
            cosine.step()
    out = {key: torch.stack(rows) for key, rows in kept.items()}
    out[f"{case.name}.loss"] = torch.tensor([losses], dtype=torch.float64)
    return out


def record():
    """All tensors of the file by name, and its metadata."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x, y, start = data()
    tensors = {"x": x, "y": y, **{f"start.{name}": w for name, w in start.items()}}
    made = cases()
    for case in made:
        tensors.update(train(case, x, y, start))
    metadata = {
        "cases": "\n".join(case.line() for case in made),
        "columns": "name " + COLUMNS,
        "command": "python tests/golden/record.py",
        "kept": " ".join(map(str, KEPT)),
        "torch": torch.__version__,
    }
    return tensors, metadata


def save(path, tensors, metadata):
    """As safetensors does, with the header in order of name: the same bytes every time."""
    file = safetensors.torch.save(tensors, metadata)
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    pathlib.Path(path).write_bytes(len(header).to_bytes(8, "little") + header + file[end:])


if __name__ == "__main__":
    save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
