"""Records what the authors' Flora does, for tests/flora_test.cpp to repeat.

    python tests/golden/flora_steps.py [OUT.safetensors]

One matrix under flora_opt's torch optimizer, in float64, with the frames that GradView draws
(philox.py) instead of those of torch's generator. The gradients are given, SHAPE.g [STEPS, m · n].
Of a case CASE there is CASE.w [STEPS + 1, m · n], a row before each step and one after the last.
The metadata's `cases` has one line per case: name, shape, Flora and Adafactor as GradView spells
them, lr.
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

PACKAGES = ["torch==2.13.0", "numpy", "safetensors", "flora-opt==0.0.3"]
FILE = pathlib.Path(__file__).with_name("flora_steps.safetensors")
STEPS, KAPPA, SEED = 14, 4, 7
SHAPES = {"tall": (7, 5), "wide": (4, 6)}
COLUMNS = "name shape projector optimizer lr"


def load():
    """The module, with stand-ins for what it imports and does not use here."""
    path = pathlib.Path(*importlib.util.find_spec("flora_opt").submodule_search_locations)
    absent = {
        "bitsandbytes": types.ModuleType("bitsandbytes"),
        "bitsandbytes.functional": types.SimpleNamespace(
            quantize_blockwise=None, dequantize_blockwise=None
        ),
        "accelerate": types.SimpleNamespace(Accelerator=object),
    }
    absent["bitsandbytes"].functional = absent["bitsandbytes.functional"]
    before = {name: sys.modules.get(name) for name in absent}
    sys.modules.update(absent)
    spec = importlib.util.spec_from_file_location(
        "flora_of_the_authors", path / "optimizers" / "torch" / "flora.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, old in before.items():
        if old is None:
            del sys.modules[name]
        else:
            sys.modules[name] = old
    return module


def gradients(shape):
    return [
        (1 + t % 3) * common.uniform(SHAPES[shape], f"flora {shape} {t}") for t in range(STEPS)
    ]


def cases():
    made = []
    for shape in SHAPES:
        for name, clip, scaled, decay in (
            ("shipped", 1.0, True, -0.8),
            ("unscaled", 0.4, False, -0.8),
            ("free", math.inf, False, -0.5),
        ):
            spec = f"flora:rank=2,beta1=0.7,refresh_every={KAPPA}"
            spec += f",clip_threshold={clip:g}" if math.isfinite(clip) else ""
            spec += ",scale_parameter=true" if scaled else ""
            rule = f"adafactor:clip_threshold=0,scale_parameter=false,beta2_decay={decay}"
            arguments = {
                "lr": 0.05,
                "rank": 2,
                "kappa": KAPPA,
                "beta1": 0.7,
                "clip_threshold": clip,
                "scale_parameter": scaled,
                "decay_rate": decay,
            }
            line = f"{shape}_{name} {shape} {spec} {rule} 0.05"
            made.append((f"{shape}_{name}", shape, arguments, line))
    return made


def randn(shape, seed, device=None, dtype=None):
    """Theirs is rank x m on the left, n x rank on the right; the first seed of a parameter is 1."""
    left = shape[0] < shape[1]
    purpose = philox.LEFT_FRAME if left else philox.RIGHT_FRAME
    return philox.normal((shape[1], shape[0]), SEED, purpose, "w", seed - 1).T


def record():
    """All tensors of the file by name, and its metadata."""
    torch.set_num_threads(1)
    flora = load()
    flora.stable_randn = randn
    flora.next_seed = lambda seed: seed + 1
    flora.split_seed = lambda seed: (seed, seed)
    tensors = {}
    for shape, size in SHAPES.items():
        tensors[f"{shape}.g"] = torch.stack([g.flatten() for g in gradients(shape)])
        tensors[f"{shape}.start"] = common.uniform(size, f"flora start {shape}")
    made = cases()
    for name, shape, arguments, _ in made:
        w = torch.nn.Parameter(tensors[f"{shape}.start"].clone())
        stepper = flora.Flora([w], **arguments)
        rows = [w.detach().flatten().clone()]
        for gradient in gradients(shape):
            w.grad = gradient
            stepper.step()
            rows.append(w.detach().flatten().clone())
        tensors[f"{name}.w"] = torch.stack(rows)
    metadata = {
        "cases": "\n".join(line for *_, line in made),
        "columns": COLUMNS,
        "command": "python tests/golden/flora_steps.py",
        "flora-opt": importlib.metadata.version("flora-opt"),
        "seed": str(SEED),
        "torch": torch.__version__,
    }
    return tensors, metadata


if __name__ == "__main__":
    common.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
