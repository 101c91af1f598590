"""Records the two official Adafactors, for tests/adafactor_test.cpp to repeat.

    python tests/golden/adafactor.py [OUT.safetensors]

In float64, from gradients that are given: SHAPE.g [STEPS, m · n] of a tall and a wide matrix, of a
vector, and `faint`, some of whose rows are small enough for the lower bounds to matter. Of a case
CASE there is CASE.w [STEPS + 1, m · n], a row before each step and one after the last. The
metadata's `cases` has one line per case: name, shape, projector and Adafactor as GradView
spells them, lr.
"""

import math
import pathlib
import sys

import torch
import transformers.optimization

import record as common

PACKAGES = ["torch==2.13.0", "numpy", "safetensors", "transformers==5.23.0"]
FILE = pathlib.Path(__file__).with_name("adafactor.safetensors")
STEPS = 12
SHAPES = {"tall": (7, 5), "wide": (4, 6), "vector": (1, 9), "faint": (6, 5)}
COLUMNS = "name shape projector optimizer lr"


def gradients(shape):
    size = SHAPES[shape]
    rows = torch.ones(size[0], 1, dtype=torch.float64)
    if shape == "faint":
        rows[::2] = 1e-6
    return [
        (1 + t % 3) * rows * common.uniform(size, f"adafactor {shape} {t}") for t in range(STEPS)
    ]


def theirs(name, lr):
    """(GradView's spec, torch.optim optimizer of one parameter)"""
    hf, pt = transformers.optimization.Adafactor, torch.optim.Adafactor
    fixed = {"lr": lr, "relative_step": False}
    plain = {**fixed, "scale_parameter": False}
    return {
        "transformers": ("adafactor", hf, fixed),
        "unscaled": ("adafactor:scale_parameter=false", hf, plain),
        "momentum": ("adafactor:beta1=0.8", hf, {**fixed, "beta1": 0.8}),
        "options": (
            "adafactor:clip_threshold=0.5,beta2_decay=-0.5,eps1=1e-10,eps2=0.7",
            hf,
            {**fixed, "clip_threshold": 0.5, "decay_rate": -0.5, "eps": (1e-10, 0.7)},
        ),
        "decay": (
            "adafactor:scale_parameter=false,weight_decay=0.3",
            hf,
            {**plain, "weight_decay": 0.3},
        ),
        "torch": ("adafactor:variant=torch", pt, {"lr": lr}),
        "bounded": (
            "adafactor:variant=torch,eps1=0.01,eps2=0.7,clip_threshold=2,beta2_decay=-0.6",
            pt,
            {"lr": lr, "eps": (0.01, 0.7), "d": 2.0, "beta2_decay": -0.6},
        ),
        "torch_decay": (
            "adafactor:variant=torch,weight_decay=0.3",
            pt,
            {"lr": lr, "weight_decay": 0.3},
        ),
    }[name]


def train(start, given, optimizer, arguments):
    w = torch.nn.Parameter(start.clone())
    stepper = optimizer([w], **arguments)
    rows = [w.detach().flatten().clone()]
    for gradient in given:
        w.grad = gradient.clone()
        stepper.step()
        rows.append(w.detach().flatten().clone())
    return torch.stack(rows)


def record():
    """All tensors of the file by name, and its metadata."""
    torch.set_num_threads(1)
    tensors, lines = {}, []
    lr = 0.05
    assert lr <= 1 / math.sqrt(STEPS)  # torch takes the smaller of the two
    for shape, size in SHAPES.items():
        given = gradients(shape)
        start = common.uniform(size, f"adafactor start {shape}")
        tensors[f"{shape}.g"] = torch.stack([g.flatten() for g in given])
        tensors[f"{shape}.start"] = start
        if shape == "vector":
            given, start = [g[0] for g in given], start[0]
        for name in (
            "transformers unscaled momentum options decay torch bounded torch_decay".split()
        ):
            spec, optimizer, arguments = theirs(name, lr)
            tensors[f"{shape}_{name}.w"] = train(start, given, optimizer, arguments)
            lines.append(f"{shape}_{name} {shape} full {spec} {lr}")
    metadata = {
        "cases": "\n".join(lines),
        "columns": COLUMNS,
        "command": "python tests/golden/adafactor.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return tensors, metadata


if __name__ == "__main__":
    common.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
