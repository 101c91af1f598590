"""Records what the authors' APOLLO does, for tests/apollo_test.cpp to repeat.

    python tests/golden/apollo_adamw.py [OUT.safetensors]

One matrix under apollo_torch's AdamW, in float64, with the frames that GradView draws (philox.py):
its own come from torch's generator, in float32. The gradients are given, SHAPE.g [STEPS, m · n];
they grow and shrink, so that the norm-growth limiter acts. Of a case CASE there is CASE.w
[STEPS + 1, m · n], a row before each step and one after the last. The metadata's `cases` has one
line per case: name, shape, APOLLO and Adam as GradView spells them, lr.
"""

import importlib.metadata
import importlib.util
import math
import pathlib
import sys
import types

import torch

import philox
import record as common

PACKAGES = ["torch==2.13.0", "numpy", "safetensors", "transformers", "apollo-torch==1.0.3"]
FILE = pathlib.Path(__file__).with_name("apollo_adamw.safetensors")
STEPS, GAP, SEED = 14, 5, 7
SHAPES = {"tall": (7, 5), "wide": (4, 6)}
COLUMNS = "name shape projector optimizer lr"


def package(name):
    """The package without its __init__.py, which wants what only its 8-bit variants use."""
    module = types.ModuleType(name)
    module.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules.setdefault(name, module)


def gradients(shape):
    return [
        (1 + (t * t) % 7) * common.uniform(SHAPES[shape], f"apollo {shape} {t}")
        for t in range(STEPS)
    ]


def cases():
    made = []

    def add(name, rank, scale, scale_type, front=False, limited=True, corrected=True, lr=0.02):
        for shape in SHAPES:
            spec = f"apollo:rank={rank},refresh_every={GAP},scale={scale},scaling={scale_type}"
            spec += ",scale_front=true" if front else ""
            spec += "" if limited else ",growth_limit=0"
            adam = f"adam:eps=1e-06,bias_correction={'rate' if corrected else 'none'}"
            group = {
                "rank": rank,
                "proj": "random",
                "proj_type": "std",
                "update_proj_gap": GAP,
                "scale": scale,
                "scale_type": scale_type,
            }
            more = {
                "lr": lr,
                "scale_front": front,
                "disable_nl": not limited,
                "correct_bias": corrected,
            }
            line = f"{shape}_{name} {shape} {spec} {adam} {lr}"
            made.append((f"{shape}_{name}", shape, group, more, line))

    add("channel", 3, 1, "channel")
    add("channel_front", 3, 4, "channel", front=True)
    add("channel_behind", 3, 4, "channel")
    add("channel_free", 3, 4, "channel", limited=False)
    add("channel_uncorrected", 2, 2, "channel", corrected=False)
    add("mini", 1, 128, "tensor", lr=0.002)
    add("mini_front", 1, 128, "tensor", front=True, lr=0.002)
    return made


def frames():
    """Stands in for stable_randn: GradView's frames, in the order in which they are drawn."""
    drawn = 0

    def randn(shape, seed, device=None, dtype=None):
        nonlocal drawn
        purpose = philox.RIGHT_FRAME if shape[0] < shape[1] else philox.LEFT_FRAME
        made = philox.normal(shape, SEED, purpose, "w", drawn * GAP)
        drawn += 1
        return made

    return randn


def record():
    """All tensors of the file by name, and its metadata."""
    package("apollo_torch")
    from apollo_torch import apollo, random_projector

    torch.set_num_threads(1)
    tensors = {}
    for shape, size in SHAPES.items():
        tensors[f"{shape}.g"] = torch.stack([g.flatten() for g in gradients(shape)])
        tensors[f"{shape}.start"] = common.uniform(size, f"apollo start {shape}")
    made = cases()
    for name, shape, group, more, _ in made:
        random_projector.stable_randn = frames()
        w = torch.nn.Parameter(tensors[f"{shape}.start"].clone())
        stepper = apollo.AdamW([{"params": [w], **group}], **more)
        rows = [w.detach().flatten().clone()]
        for gradient in gradients(shape):
            w.grad = gradient
            stepper.step()
            rows.append(w.detach().flatten().clone())
        tensors[f"{name}.w"] = torch.stack(rows)
        assert w.dtype == torch.float64 and math.isfinite(rows[-1].sum())
    metadata = {
        "apollo-torch": importlib.metadata.version("apollo-torch"),
        "cases": "\n".join(line for *_, line in made),
        "columns": COLUMNS,
        "command": "python tests/golden/apollo_adamw.py",
        "seed": str(SEED),
        "torch": torch.__version__,
    }
    return tensors, metadata


if __name__ == "__main__":
    common.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
