"""Records what the authors' GaLore does, for tests/one_sided_golden_test.cpp to repeat.

    python tests/golden/galore_adamw.py [OUT.safetensors]

The weights of one matrix under galore_torch's AdamW and its projector, in float64, from gradients
that are given: those of a turning low-rank part with noise, `tall.g` and `wide.g`, m · n numbers
in each of STEPS rows, or the same rounded to bfloat16 (`tall.rounded` …). Of a case CASE there is
CASE.w, a row before each step and one after the last. The metadata's `cases` has one line per
case: name, shape, gradients, GaLore and Adam as GradView spells them, lr, weight decay.

Two things are set so that both sides mean the same; GradView's galore.hpp names them. Singular
vectors get fixed signs, and are computed in float64: the package takes them in float32 and as
LAPACK leaves them, which the case `shipped` keeps; it never refreshes, so that signs do not matter.
With both frames new, what they see of G is diagonal up to rounding, and with a small ε Adam takes
full steps along the rounding: `full` has a large one.
"""

import importlib.util
import pathlib
import sys
import types

import torch

import record as common

PACKAGES = ["torch==2.13.0", "numpy", "safetensors", "transformers", "galore-torch==1.0"]
FILE = pathlib.Path(__file__).with_name("galore_adamw.safetensors")
STEPS = 12
SHAPES = {"tall": (9, 6), "wide": (5, 8)}
COLUMNS = "name shape gradients projector optimizer lr decay"


def package(name):
    """The package without its __init__.py, which wants bitsandbytes for the 8-bit variant."""
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
        sys.modules[name] = module


def gradients(shape, key):
    m, n = SHAPES[shape]
    draw = lambda rows, cols, what: common.uniform((rows, cols), f"{key} {shape} {what}")
    left, turn, right = draw(m, 3, "left"), draw(m, 3, "turn"), draw(3, n, "right")
    return [
        (left + 0.1 * t * turn) @ right + 0.3 * draw(m, n, f"noise {t}") for t in range(STEPS)
    ]


def with_fixed_signs(rows):
    """The entry of largest magnitude of every row positive."""
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return rows * largest.sign()


def exact_frames(self, gradient, rank, type):
    u, _, vt = torch.linalg.svd(gradient, full_matrices=False)
    u, vt = with_fixed_signs(u[:, :rank].T).T, with_fixed_signs(vt[:rank])
    return {"left": u, "right": vt, "full": [u, vt]}[type]


def run(optimizer, given, start):
    """The weights before each step and after the last; optimizer: parameter → torch.optim one."""
    w = torch.nn.Parameter(start.clone())
    stepper = optimizer(w)
    rows = [w.detach().flatten().clone()]
    for gradient in given:
        w.grad = gradient.clone()
        stepper.step()
        rows.append(w.detach().flatten().clone())
    return torch.stack(rows)


def inputs():
    tensors = {}
    for shape, size in SHAPES.items():
        given = gradients(shape, "gradient")
        tensors[f"{shape}.g"] = torch.stack([g.flatten() for g in given])
        tensors[f"{shape}.rounded"] = tensors[f"{shape}.g"].to(torch.bfloat16).to(torch.float64)
        tensors[f"{shape}.start"] = common.uniform(size, f"start {shape}")
    return tensors


SIDES = {"std": "auto", "reverse_std": "long", "left": "left", "right": "right", "full": "both"}


def cases():
    made = []

    def add(name, shape, proj_type="std", rank=3, gap=5, decay=0.0, kind="g", eps=1e-6, bias=True):
        scale, lr = 0.7, 0.05
        group = {"rank": rank, "update_proj_gap": gap, "scale": scale, "proj_type": proj_type}
        spec = f"galore:rank={rank},refresh_every={gap},scale={scale:g},side={SIDES[proj_type]}"
        rule = f"adam:eps={eps:g},bias_correction={'rate' if bias else 'none'}"
        line = [name, shape, kind, spec, rule, f"{lr:g}", f"{decay:g}"]
        adam = {"lr": lr, "eps": eps, "weight_decay": decay, "correct_bias": bias}
        made.append((name, shape, kind, group, adam, " ".join(line)))

    for shape in SHAPES:
        for proj_type in SIDES:
            add(f"{shape}_{proj_type}", shape, proj_type, eps=0.1 if proj_type == "full" else 1e-6)
        add(f"{shape}_decay", shape, decay=0.3)
        add(f"{shape}_rounded", shape, kind="rounded")
        add(f"{shape}_uncorrected", shape, bias=False)
        add(f"{shape}_whole", shape, rank=min(SHAPES[shape]), gap=4)
    add("shipped", "tall", gap=STEPS)
    return made


def record():
    """All tensors of the file by name, and its metadata."""
    package("galore_torch")
    from galore_torch import adamw

    torch.set_num_threads(1)
    tensors = inputs()
    made = cases()
    theirs = adamw.GaLoreProjector.get_orthogonal_matrix
    for name, shape, kind, group, adam, _ in made:
        adamw.GaLoreProjector.get_orthogonal_matrix = theirs if name == "shipped" else exact_frames
        size = SHAPES[shape]

        def optimizer(w):
            return adamw.AdamW([{"params": [w], **group}], **adam, no_deprecation_warning=True)

        given = [g.reshape(size) for g in tensors[f"{shape}.{kind}"]]
        tensors[f"{name}.w"] = run(optimizer, given, tensors[f"{shape}.start"])
    adamw.GaLoreProjector.get_orthogonal_matrix = theirs
    metadata = {
        "cases": "\n".join(line for *_, line in made),
        "columns": COLUMNS,
        "command": "python tests/golden/galore_adamw.py",
        "torch": torch.__version__,
    }
    return tensors, metadata


if __name__ == "__main__":
    common.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
