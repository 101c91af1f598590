"""Records PEFT's AdaLoRA over whole schedules, for tests/adalora_test.cpp to repeat.

    python tests/golden/peft_adalora.py [OUT.safetensors]

A network y = W3 tanh(W2 tanh(W1 x)), mean squared error, in float64 on one thread. Each weight is an
SVDLinear of PEFT; AdaLoraModel adds its penalty to the loss, and update_and_allocate runs after every
step of torch.optim, as its documentation asks for. Of a case CASE there are CASE.loss and
CASE.penalty [1, STEPS] before each step, CASE.budget and CASE.threshold [1, STEPS], and for each
weight CASE.NAME [STEPS, m n], CASE.NAME.u, .lambda, .v (start and after each step: STEPS + 1 rows),
.score and .kept [STEPS, r]. −1 stands where mask_to_budget was not called. PEFT's penalty reaches the
loss only because AdaLoraModel is called here, and not the PeftModel around it (huggingface/peft#432).
Where the base layer is not in float32, PEFT 0.21 leaves `ranknum` (the r of alpha/r) trainable, and
an optimizer would move the scale; it is frozen again here.
"""

import dataclasses
import math
import pathlib
import sys
import types

import peft
import torch
from peft import AdaLoraConfig, get_peft_model

import record as torch_record

PACKAGES = ["torch==2.13.0", "numpy", "safetensors", "peft==0.21.2"]
FILE = pathlib.Path(__file__).with_name("peft_adalora.safetensors")
TOLERANCE = 1e-9
NAMES = {"fc1": (6, 5), "fc2": (5, 6), "fc3": (7, 5)}  # W is m x n
TOKENS, RANK, ALPHA, STEPS = 24, 4, 7.0, 28
COLUMNS = "name spec optimizer lr clip"


@dataclasses.dataclass
class Case:
    name: str
    optimizer: str
    rule: callable
    lr: float
    clip: float = math.inf
    target: int = 2
    tinit: int = 3
    tfinal: int = 6
    every: int = 1
    gamma: float = 0.5

    def spec(self):
        phases = f"tinit={self.tinit},tfinal={self.tfinal},deltaT={self.every}"
        size = f"rank={RANK},target={self.target},alpha={ALPHA:g}"
        return f"adalora:{size},{phases},gamma={self.gamma:g},variant=peft"

    def line(self):
        columns = (getattr(self, column) for column in "optimizer lr clip".split())
        return " ".join([self.name, self.spec(), *map(str, columns)])


CASES = [
    Case("every_step", "adam", torch.optim.Adam, 0.02),
    Case("every_fourth", "sgd", torch.optim.SGD, 0.3, every=4, tinit=0, gamma=0.2),
    Case("clipped", "sgd", torch.optim.SGD, 0.3, clip=0.7, tfinal=7, every=2),
    Case("no_penalty", "adam", torch.optim.Adam, 0.03, gamma=0.0, tfinal=0, target=1),
]


class Net(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        for name, w in start.items():
            layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float64)
            layer.weight = torch.nn.Parameter(w.clone())
            self.add_module(name, layer)

    def forward(self, x, y):
        out = self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))
        loss = (out - y).square().sum(dim=1).mean() / 2
        return types.SimpleNamespace(loss=loss)


def data():
    uniform = torch_record.uniform
    x = math.sqrt(3) * uniform((TOKENS, 5), "adalora x")
    start = {name: uniform(shape, f"adalora {name}") for name, shape in NAMES.items()}
    y = 2 * uniform((TOKENS, 7), "adalora y")
    return x, y, start


def adapted(case, start):
    config = AdaLoraConfig(
        init_r=RANK,
        target_r=case.target,
        lora_alpha=ALPHA,
        tinit=case.tinit,
        tfinal=case.tfinal,
        deltaT=case.every,
        orth_reg_weight=case.gamma,
        total_step=STEPS,
        target_modules=list(NAMES),
    )
    model = get_peft_model(Net(start), config).base_model
    for name in NAMES:  # PEFT draws them in float32 from its own generator
        layer = getattr(model.model, name)
        for kind, key in (("lora_A", "v"), ("lora_B", "u")):
            factor = getattr(layer, kind)["default"]
            drawn = 0.4 * torch_record.uniform(tuple(factor.shape), f"adalora {name} {key}")
            factor.data = drawn
        layer.lora_E["default"].data = layer.lora_E["default"].data.double()
        layer.ranknum["default"].requires_grad_(False)
    return model


def factors(layer):
    u, lam, v = (getattr(layer, f"lora_{kind}")["default"] for kind in "BEA")
    return {"u": u, "lambda": lam, "v": v}


def watch_masks(allocator, rows):
    """Keeps what mask_to_budget decides with: PEFT itself returns the pattern only."""
    mask_to_budget = allocator.mask_to_budget

    def watched(model, budget):
        score = allocator._element_score
        scores = {}
        for name in NAMES:
            key = f"{name}.lora_%s.default"
            scores[name] = (
                score(key % "E")[:, 0] + score(key % "A").mean(dim=1) + score(key % "B").mean(dim=0)
            )
        pattern = mask_to_budget(model, budget)
        kept = {name: torch.tensor(pattern[f"{name}.lora_E.default"]).double() for name in NAMES}
        masked = torch.cat([scores[name][kept[name] == 0] for name in NAMES])
        row = {"budget": budget, "threshold": masked.max().item(), "score": scores, "kept": kept}
        rows.append(row)
        return pattern

    allocator.mask_to_budget = watched


def train(case, x, y, start):
    model = adapted(case, start)
    nothing = torch.full((RANK,), -1.0, dtype=torch.float64)
    masks = []
    watch_masks(model.rankallocator, masks)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = case.rule(parameters, lr=case.lr)
    numbers = {key: [] for key in ("loss", "penalty", "budget", "threshold")}
    kept = {}

    def keep(key, value):
        kept.setdefault(f"{case.name}.{key}", []).append(value.detach().flatten().clone())

    def keep_factors():
        for name in NAMES:
            for key, factor in factors(getattr(model.model, name)).items():
                keep(f"{name}.{key}", factor)

    keep_factors()
    for step in range(STEPS):
        optimizer.zero_grad()
        task = model.model(x, y).loss.item()
        loss = model(x, y).loss
        loss.backward()
        numbers["loss"].append(task)
        numbers["penalty"].append(loss.item() - task)
        if math.isfinite(case.clip):
            torch_record.clip(parameters, case.clip)
        optimizer.step()
        masks.clear()
        model.update_and_allocate(step)
        mask = masks[0] if masks else None
        for key in ("budget", "threshold"):
            numbers[key].append(mask[key] if mask else -1.0)
        keep_factors()
        for name in NAMES:
            layer = getattr(model.model, name)
            keep(name, layer.base_layer.weight + layer.get_delta_weight("default"))
            for key in ("score", "kept"):
                keep(f"{name}.{key}", mask[key][name] if mask else nothing)
    out = {key: torch.stack(rows) for key, rows in kept.items()}
    for key, row in numbers.items():
        out[f"{case.name}.{key}"] = torch.tensor([row], dtype=torch.float64)
    return out


def record():
    """All tensors of the file by name, and its metadata."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x, y, start = data()
    tensors = {"x": x, "y": y, **{f"start.{name}": w for name, w in start.items()}}
    for case in CASES:
        tensors.update(train(case, x, y, start))
    metadata = {
        "cases": "\n".join(case.line() for case in CASES),
        "columns": COLUMNS,
        "command": "python tests/golden/peft_adalora.py",
        "peft": peft.__version__,
        "torch": torch.__version__,
    }
    return tensors, metadata


if __name__ == "__main__":
    torch_record.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
