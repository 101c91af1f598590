"""Records what the authors' Fira does, for tests/one_sided_golden_test.cpp to repeat.

    python tests/golden/fira_adamw.py [OUT.safetensors]

As galore_adamw.py, with the package fira, whose gradients and starts are those of that file. Its
limiter holds the rest of the gradient back at most of the steps.
"""

import pathlib
import sys

import torch

import galore_adamw as galore
import record as common

PACKAGES = ["torch==2.13.0", "numpy", "safetensors", "transformers", "fira==1.0.2"]
FILE = pathlib.Path(__file__).with_name("fira_adamw.safetensors")


def cases():
    made = []

    def add(name, shape, proj_type="std", gap=5, alpha=0.7, lr=0.05, decay=0.0, kind="g"):
        group = {"rank": 3, "update_proj_gap": gap, "alpha": alpha, "proj_type": proj_type}
        side = galore.SIDES[proj_type]
        spec = f"fira:rank=3,refresh_every={gap},scale={alpha:g},side={side},residual=scaled"
        rule = "adam:eps=1e-06,bias_correction=rate"
        line = " ".join([name, shape, kind, spec, rule, f"{lr:g}", f"{decay:g}"])
        made.append((name, shape, kind, group, {"lr": lr, "weight_decay": decay}, line))

    for shape in galore.SHAPES:
        for proj_type in ("std", "reverse_std"):
            add(f"{shape}_{proj_type}", shape, proj_type)
        add(f"{shape}_plain", shape, alpha=1, gap=galore.STEPS)
        add(f"{shape}_decay", shape, decay=0.3)
        add(f"{shape}_rounded", shape, kind="rounded")
    return made


def record():
    """All tensors of the file by name, and its metadata."""
    galore.package("fira")
    from fira import fira_adamw as adamw

    torch.set_num_threads(1)
    tensors = {}
    inputs = galore.inputs()
    made = cases()
    adamw.GradientProjector.get_orthogonal_matrix = galore.exact_frames
    for name, shape, kind, group, adam, _ in made:

        def optimizer(w):
            return adamw.AdamW([{"params": [w], **group}], **adam, no_deprecation_warning=True)

        given = [g.reshape(galore.SHAPES[shape]) for g in inputs[f"{shape}.{kind}"]]
        tensors[f"{name}.w"] = galore.run(optimizer, given, inputs[f"{shape}.start"])
    metadata = {
        "cases": "\n".join(line for *_, line in made),
        "columns": galore.COLUMNS,
        "command": "python tests/golden/fira_adamw.py",
        "torch": torch.__version__,
    }
    return tensors, metadata


if __name__ == "__main__":
    common.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
