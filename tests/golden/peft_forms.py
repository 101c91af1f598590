"""Records what PEFT's DoRA, VeRA, LoHa and LoKr layers do, for tests/forms_test.cpp to repeat.

    python tests/golden/peft_forms.py [OUT.safetensors]        the packages of PACKAGES

The problem is least squares with a two-layer network, tanh(x W1ᵀ) W2ᵀ to y, in float64 on one
thread. Both layers are torch.nn.Linear, wrapped by PEFT with its own initial factors; autograd and
torch.optim train them. The case dora_exact, which PEFT does not have, is written out: the gradient
goes through the norm. PEFT rounds LoHa's scale to float32, so that it is one that float32 holds
here. bf16: x and the weights are rounded to bfloat16 first.

Every tensor has two dimensions. Of a case CASE there are, for each weight NAME, CASE.NAME (W as the
layer applies it) and CASE.NAME.FIELD, under GradView's names of the factors, [3, size]: a row after
each of KEPT steps, flattened; and CASE.loss [1, 21]. `x`, `y`, `start.NAME` and their roundings
bf16.x, bf16.start.NAME are shared. The metadata's `cases` has one line per case.
"""

import dataclasses
import math
import pathlib
import sys

import peft
import torch
from record import save, uniform
from torch.optim import SGD, Adam, AdamW

PACKAGES = ["torch==2.13.0", "peft==0.21.2", "numpy", "safetensors"]
FILE = pathlib.Path(__file__).with_name("peft_forms.safetensors")
KEPT = (0, 2, 20)
TOKENS = 24
SHAPES = {"fc1": (12, 10), "fc2": (6, 12)}
COLUMNS = "projector optimizer lr inputs"
RULES = {
    "sgd": ("sgd", SGD, {"lr": 0.03}),
    "adam": ("adam", Adam, {"lr": 0.01}),
    "adamw": ("adamw:weight_decay=0.1", AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


@dataclasses.dataclass
class Case:
    name: str
    projector: str  # as GradView spells it
    wrap: callable  # the model → nothing; makes its layers PEFT's
    fields: callable  # a layer → its tensors under GradView's names
    rule: str
    inputs: str = "plain"

    def line(self):
        optimizer, _, arguments = RULES[self.rule]
        return f"{self.name} {self.projector} {optimizer} {arguments['lr']} {self.inputs}"


class Net(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        for name, (m, n) in SHAPES.items():
            layer = torch.nn.Linear(n, m, bias=False, dtype=torch.float64)
            layer.weight.data.copy_(start[name])
            setattr(self, name, layer)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(x)))


def adapter(config):
    return lambda net: peft.get_peft_model(net, config).double().base_model.model


class ExactDora(torch.nn.Module):
    """PEFT's layer with its factors and its magnitude, and a norm that the gradient goes through."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        f = dora(self.layer)
        v = f["base"] + self.layer.scaling["default"] * f["u"] @ f["v"]
        return x @ (f["magnitude"] / torch.linalg.norm(v, dim=1) * v.T)


def exact_dora(config):
    def wrap(net):
        net = adapter(config)(net)
        for name in SHAPES:
            setattr(net, name, ExactDora(getattr(net, name)))
        return net

    return wrap


def dora(layer):
    layer = getattr(layer, "layer", layer)
    return {
        "base": layer.base_layer.weight,
        "u": layer.lora_B["default"].weight,
        "v": layer.lora_A["default"].weight,
        "magnitude": layer.lora_magnitude_vector["default"].weight,
    }


def vera(layer):
    n, m = layer.in_features, layer.out_features
    return {
        "b": layer.vera_lambda_b["default"],
        "d": layer.vera_lambda_d["default"],
        "u": layer.vera_B["default"][:m],
        "v": layer.vera_A["default"][:, :n],
    }


def loha(layer):
    names = {"u1": "w1_a", "v1": "w1_b", "u2": "w2_a", "v2": "w2_b"}
    return {name: getattr(layer, f"hada_{theirs}")["default"] for name, theirs in names.items()}


def lokr(layer):
    names = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")
    found = {name: getattr(layer, f"lokr_{name}") for name in names}
    return {name: tensors["default"] for name, tensors in found.items() if "default" in tensors}


def cases():
    layers = {"target_modules": list(SHAPES)}
    made = []

    def add(name, projector, wrap, fields, *rules, **more):
        for rule in rules:
            made.append(Case(f"{name}_{rule}", projector, wrap, fields, rule, **more))

    def dora_config(r, alpha, **more):
        return peft.LoraConfig(r=r, lora_alpha=alpha, use_dora=True, **layers, **more)

    config = dora_config(3, 5)
    spec = "dora:rank=3,alpha=5"
    add("dora", f"{spec},norm=detached", adapter(config), dora, "sgd", "adam", "adamw")
    add("dora_exact", f"{spec},norm=exact", exact_dora(config), dora, "sgd", "adam", "adamw")
    config = dora_config(6, 4, use_rslora=True)
    spec = "dora:rank=6,alpha=4,norm=detached,scaling=rslora"
    add("dora_full_rank", spec, adapter(config), dora, "adam")
    add("dora_bf16", spec, adapter(config), dora, "adam", inputs="bf16")
    config = peft.VeraConfig(r=5, d_initial=0.2, **layers)
    add("vera", "vera:rank=5,d_initial=0.2", adapter(config), vera, "sgd", "adam", "adamw")
    config = peft.VeraConfig(r=16, **layers)
    add("vera_bf16", "vera:rank=16", adapter(config), vera, "adam", inputs="bf16")
    config = peft.LoHaConfig(r=3, alpha=6, **layers)
    add("loha", "loha:rank=3,alpha=6", adapter(config), loha, "sgd", "adam", "adamw")
    config = peft.LoHaConfig(r=6, alpha=9, **layers)
    add("loha_full_rank", "loha:rank=6,alpha=9", adapter(config), loha, "adam")
    add("loha_bf16", "loha:rank=6,alpha=9", adapter(config), loha, "adam", inputs="bf16")
    for name, spec, more in (
        ("lokr", "lokr:rank=2,alpha=3", {}),
        ("lokr_whole", "lokr:rank=6,alpha=4", {}),
        ("lokr_both", "lokr:rank=1,alpha=3,decompose=both", {"decompose_both": True}),
        ("lokr_factor", "lokr:rank=2,alpha=3,factor=2", {"decompose_factor": 2}),
        ("lokr_lycoris", "lokr:rank=2,alpha=3,init=lycoris", {"init_weights": "lycoris"}),
    ):
        r, alpha = (int(part.split("=")[1]) for part in spec.split(":")[1].split(",")[:2])
        config = peft.LoKrConfig(r=r, alpha=alpha, **layers, **more)
        rules = ("sgd", "adam", "adamw") if name == "lokr" else ("adam",)
        add(name, spec, adapter(config), lokr, *rules)
        if name == "lokr":
            add("lokr_bf16", spec, adapter(config), lokr, "adam", inputs="bf16")
    return made


def train(case, x, y, start):
    """The tensors of one case."""
    torch.manual_seed(7)
    net = case.wrap(Net(start))
    trained = [p for name, p in net.named_parameters() if p.requires_grad]
    _, rule, arguments = RULES[case.rule]
    optimizer = rule(trained, **arguments)
    losses, kept = [], {}
    for step in range(KEPT[-1] + 1):
        if step in KEPT:
            for name, (_, n) in SHAPES.items():
                layer = getattr(net, name)
                now = {name: layer(torch.eye(n, dtype=torch.float64)).T}
                now |= {f"{name}.{f}": t for f, t in case.fields(layer).items() if f != "base"}
                for key, value in now.items():
                    row = value.detach().reshape(-1).double().clone()
                    kept.setdefault(f"{case.name}.{key}", []).append(row)
        optimizer.zero_grad()
        loss = (net(x) - y).square().sum(dim=1).mean() / 2
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    out = {key: torch.stack(rows) for key, rows in kept.items()}
    out[f"{case.name}.loss"] = torch.tensor([losses], dtype=torch.float64)
    return out


def data():
    x = math.sqrt(3) * uniform((TOKENS, SHAPES["fc1"][1]), "forms x")
    start = {name: uniform(shape, f"forms {name}") for name, shape in SHAPES.items()}
    teacher = {name: uniform(shape, f"forms teacher {name}") for name, shape in SHAPES.items()}
    y = torch.tanh(x @ teacher["fc1"].T) @ teacher["fc2"].T
    return x, y, start


def record():
    """All tensors of the file by name, and its metadata."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x, y, start = data()
    rounded = [t.bfloat16().double() for t in (x, *start.values())]
    sets = {"plain": (x, start), "bf16": (rounded[0], dict(zip(start, rounded[1:])))}
    tensors = {"y": y}
    for inputs, (xs, weights) in sets.items():
        prefix = "" if inputs == "plain" else f"{inputs}."
        tensors[f"{prefix}x"] = xs
        tensors.update({f"{prefix}start.{name}": w for name, w in weights.items()})
    made = cases()
    for case in made:
        xs, weights = sets[case.inputs]
        tensors.update(train(case, xs, y, weights))
    metadata = {
        "cases": "\n".join(case.line() for case in made),
        "columns": "name " + COLUMNS,
        "command": "python tests/golden/peft_forms.py",
        "kept": " ".join(map(str, KEPT)),
        "peft": peft.__version__,
        "torch": torch.__version__,
    }
    return tensors, metadata


if __name__ == "__main__":
    save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
