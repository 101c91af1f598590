"""Records what the authors' Fira does, for tests/one_sided_golden_test.cpp to repeat.

    python tests/golden/fira_adamw.py [OUT.safetensors]

As galore_adamw.py, with the package fira, whose gradients and starts are those of that file. The
authors' limiter sees the rest of the gradient before Adam's bias correction, GradView's after it:
it is on where β₁ = β₂ = 0, which need none, and off under Adam's own β₁, β₂.
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

    def add(name, shape, limited, proj_type="std", gap=5, alpha=0.7, lr=0.05, kind="g"):
        group = {"rank": 3, "update_proj_gap": gap, "alpha": alpha, "proj_type": proj_type}
        side = galore.SIDES[proj_type]
        spec = f"fira:rank=3,refresh_every={gap},scale={alpha:g},side={side},residual=scaled"
        adam = f"adam:eps={galore.EPS:g}"
        if limited:
            adam += ",beta1=0,beta2=0"
        else:
            spec += ",growth=1e300"
        line = " ".join([name, shape, kind, spec, adam, f"{lr:g}", "0"])
        made.append((name, shape, kind, group, lr, limited, line))

    for shape in galore.SHAPES:
        for proj_type in ("std", "reverse_std"):
            add(f"{shape}_{proj_type}", shape, False, proj_type)
            add(f"{shape}_{proj_type}_limited", shape, True, proj_type)
        add(f"{shape}_rounded", shape, False, kind="rounded", alpha=1)
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
    for name, shape, kind, group, lr, limited, _ in made:
        adamw.max = max if limited else lambda *_: 1.01  # of ‖S‖/‖S before‖ and 1.01

        def optimizer(w):
            return adamw.AdamW(
                [{"params": [w], **group}],
                lr=lr,
                betas=(0.0, 0.0) if limited else (0.9, 0.999),
                eps=galore.EPS,
                no_deprecation_warning=True,
            )

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
