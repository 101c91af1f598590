"""Records what PEFT does to a LoRA pair: its starts, and a few steps of its optimizers.

    python tests/golden/peft_lora.py [OUT.safetensors]

Everything in float64: PEFT computes the starts in float32 on purpose, so `float32` means float64
to its layer while this runs, and its draws start from SEED. lora_A is v, lora_B is u. Signs of
singular vectors are arbitrary: the entry of largest magnitude in each column of u is made positive,
with the row of v that belongs to it; of lora_ga, where it belongs to another one, each for itself.

The metadata's `starts` has a line per start: its name, GradView's spec and, where PEFT draws at
random, the tensors NAME.draw… with what it drew. Of each there are NAME.w and, for lora_ga, NAME.g;
then NAME.u, NAME.v and NAME.base, what PEFT leaves in the weight (not of lora_ga, whose is of
float32). `runs` has a line per run: name, specs of projector and optimizer, lr. Each minimises
½‖x (W − target)ᵀ‖²: NAME.x, NAME.target, NAME.w, and NAME.u, NAME.v, NAME.weight [1 + STEPS,
size], a row before each step and after the last.
"""

import pathlib
import sys

import peft
import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model
from peft.optimizers import (
    create_lorafa_optimizer,
    create_loraplus_optimizer,
    create_riemannian_optimizer,
)
from peft.tuners.lora import layer

import record as base

PACKAGES = ["torch==2.13.0", "peft==0.21.2", "numpy", "safetensors"]
FILE = pathlib.Path(__file__).with_name("peft_lora.safetensors")
STEPS = 8
SEED = 1
# The randomised SVD of PEFT's lora_ga is exact where 4r >= min(m, n), to its own rounding.
SIZES = {"tall": (9, 6, 3, 5), "wide": (5, 8, 2, 3), "whole": (6, 4, 4, 3)}  # m, n, rank, alpha


def seeded(method):
    def call(*arguments):
        torch.manual_seed(SEED)
        return method(*arguments)

    return call


class Double:
    """torch, with float32 for float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def bf16(t):
    return t.to(torch.bfloat16).to(torch.float64)


def adapted(w, r, alpha, init, g=None, rslora=False, **ga):
    """A PEFT model of one linear layer, and that layer."""
    model = torch.nn.Sequential(torch.nn.Linear(w.shape[1], w.shape[0], bias=False))
    model[0].weight.data = w.clone()
    if g is not None:
        model[0]._peft_loraga_grad = g.clone()
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        use_rslora=rslora,
        init_lora_weights=init,
        lora_ga_config=LoraGAConfig(**ga) if g is not None else None,
        target_modules=["0"],
    )
    model = get_peft_model(model, config)
    return model, model.base_model.model[0]


def factors(module):
    u = module.lora_B["default"].weight.detach().clone()
    v = module.lora_A["default"].weight.detach().clone()
    return u, v


def signs(columns):
    largest = columns.abs().argmax(dim=0)
    found = columns[largest, torch.arange(columns.shape[1])].sign()
    return torch.where(found == 0, torch.ones_like(found), found)


def signed(u, v, together):
    of_u = signs(u)
    return u * of_u, v * (of_u if together else signs(v.T))[:, None]


def starts():
    tensors, lines = {}, []

    def add(name, spec, w, r, alpha, init, keep_base=True, draws=None, **more):
        _, module = adapted(w, r, alpha, init, **more)
        u, v = signed(*factors(module), together=init != "lora_ga")
        tensors.update({f"{name}.w": w, f"{name}.u": u, f"{name}.v": v})
        if keep_base:
            tensors[f"{name}.base"] = module.base_layer.weight.detach().clone()
        if more.get("g") is not None:
            tensors[f"{name}.g"] = more["g"]
        if draws:
            torch.manual_seed(SEED)
            tensors.update({f"{name}.{k}": t for k, t in draws().items()})
        lines.append(f"{name} lora:rank={r},alpha={alpha},{spec}")

    for size, (m, n, r, alpha) in SIZES.items():
        w = base.uniform((m, n), f"w {size}")
        g = base.uniform((m, n), f"g {size}")
        if size == "wide":
            w, g = bf16(w), bf16(g)
        add(f"pissa_{size}", "init=pissa", w, r, alpha, "pissa")
        add(f"olora_{size}", "init=olora", w, r, alpha, "olora")
        if 2 * r > min(m, n):
            continue  # PEFT slices past the end, and its u has too few columns
        for direction in ("ArB2r", "ArBr", "A2rBr"):
            spec = f"scaling=rslora,init=lora_ga,variant=peft,direction={direction}"
            ga = {"direction": direction, "scale": "stable"}
            name = f"ga_{direction}_{size}"
            add(name, spec, w, r, alpha, "lora_ga", keep_base=False, g=g, rslora=True, **ga)
        for ours, theirs in (("gd", "gd_scale"), ("unit", "unit"), ("weightS", "weight_svd")):
            spec = f"init=lora_ga,variant=peft,scale={ours}"
            ga = {"direction": "ArB2r", "scale": theirs}
            if ours == "weightS":  # PEFT's randomised SVD of W has r columns: make that exact
                w = base.uniform((m, r), f"left {size}") @ base.uniform((r, n), f"right {size}")
            add(f"ga_{ours}_{size}", spec, w, r, alpha, "lora_ga", keep_base=False, g=g, **ga)
    for m, n, r in ((11, 7, 3), (6, 10, 2)):
        w = base.uniform((m, n), f"w niter {m}")
        add(
            f"pissa_niter_{m}",
            "init=pissa,pissa_niter=3",
            w,
            r,
            5,
            "pissa_niter_3",
            draws=lambda m=m, n=n, r=r: {"draw": torch.randn(min(m, n), r).T.contiguous()},
        )

    def orthogonal(m, n, r):
        q = torch.linalg.qr(torch.randn(r, r))[0]
        y = torch.randn(n, r // 2).T.contiguous()
        return {"draw_q": q, "draw_y": y, "draw_x": torch.randn(r // 2, m)}

    w = base.uniform((9, 7), "w orthogonal")
    for r in (4, 6):
        add(
            f"orthogonal_{r}",
            "init=orthogonal",
            w,
            r,
            5,
            "orthogonal",
            draws=lambda r=r: orthogonal(9, 7, r),
        )
    # of the draws with a scale only: that scale
    w = base.uniform((4, 50), "w scale")
    add("zero", "init=zero", w, 3, 5, True, draws=lambda: {"draw": torch.rand(3, 50) * 2 - 1})
    def normal():
        return {"draw": torch.randn(3, 50)}

    add("gaussian", "init=gaussian", w, 3, 5, "gaussian", draws=normal)
    return tensors, lines


def runs():
    tensors, lines = {}, []

    def add(name, projector, optimizer, lr, make, m, n, r, alpha, init=True, rounded=False):
        w = base.uniform((m, n), f"w {name}")
        x = base.uniform((3 * n, n), f"x {name}") / n**0.5
        target = base.uniform((m, n), f"target {name}")
        if rounded:
            w, x, target = bf16(w), bf16(x), bf16(target)
        torch.manual_seed(SEED)
        model, module = adapted(w, r, alpha, init)
        rule = make(model, r, alpha, lr)
        rows = {"u": [], "v": [], "weight": []}
        for step in range(STEPS + 1):
            u, v = factors(module)
            weight = module.base_layer.weight.detach() + module.get_delta_weight("default").detach()
            for key, value in (("u", u), ("v", v), ("weight", weight)):
                rows[key].append(value.flatten())
            if step == STEPS:
                break
            rule.zero_grad()
            (0.5 * (model(x) - x @ target.T).square().sum()).backward()
            rule.step()
        tensors.update({f"{name}.{k}": torch.stack(values) for k, values in rows.items()})
        tensors.update({f"{name}.w": w, f"{name}.x": x, f"{name}.target": target})
        lines.append(f"{name} {projector} {optimizer} {lr}")

    def plus(cls, **more):
        return lambda model, r, alpha, lr: create_loraplus_optimizer(
            model, cls, lr=lr, loraplus_lr_ratio=4.0, **more
        )

    def riemannian(cls, **more):
        return lambda model, r, alpha, lr: create_riemannian_optimizer(model, cls, lr=lr, **more)

    def fa(model, r, alpha, lr):
        rule = create_lorafa_optimizer(model, r=r, lora_alpha=alpha, lr=lr)
        # PEFT adds eps before the bias correction, torch after it: not a matter of LoRA-FA
        rule.param_groups[0]["eps"] = 1e-30
        return rule

    sgd, adamw = torch.optim.SGD, torch.optim.AdamW
    tall, wide, whole = (9, 6, 3, 5), (5, 8, 2, 3), (6, 4, 4, 3)
    lora = "lora:rank={2},alpha={3}".format
    add("plus_sgd", lora(*tall) + ",lr_ratio=4", "sgd", 0.05, plus(sgd), *tall)
    decay = plus(adamw, loraplus_weight_decay=0.1)
    spec = lora(*wide) + ",lr_ratio=4"
    add("plus_adamw", spec, "adamw:weight_decay=0.1", 0.01, decay, *wide)
    spec = lora(*tall) + ",lr_ratio=4,init=pissa"
    add("plus_pissa", spec, "adamw:weight_decay=0", 0.01, plus(adamw), *tall, init="pissa")
    spec = lora(*tall) + ",precondition=riemannian"
    add("riemannian_sgd", spec, "sgd", 0.02, riemannian(sgd), *tall)
    spec = lora(*wide) + ",precondition=riemannian,reg=0.1"
    add("riemannian_adamw", spec, "adamw", 0.01, riemannian(adamw, reg=0.1), *wide, rounded=True)
    spec = lora(*whole) + ",precondition=riemannian,init=pissa"
    add("riemannian_pissa", spec, "adamw", 0.01, riemannian(adamw), *whole, init="pissa")
    for name, size in (("fa_tall", tall), ("fa_wide", wide), ("fa_whole", whole)):
        spec = "lora_fa:rank={2},alpha={3},correction=peft".format(*size)
        add(name, spec, "adam:eps=1e-30", 0.02, fa, *size, rounded=name == "fa_wide")
    return tensors, lines


def record():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    layer.torch = Double()
    draws = ("pissa_init", "orthogonal_init", "reset_lora_parameters")
    plain = {name: getattr(layer.LoraLayer, name) for name in draws}
    for name, method in plain.items():
        setattr(layer.LoraLayer, name, seeded(method))
    try:
        tensors, start_lines = starts()
        more, run_lines = runs()
    finally:
        layer.torch = torch
        for name, method in plain.items():
            setattr(layer.LoraLayer, name, method)
        torch.set_default_dtype(torch.float32)
    metadata = {
        "command": "python tests/golden/peft_lora.py",
        "peft": peft.__version__,
        "runs": "\n".join(run_lines),
        "starts": "\n".join(start_lines),
        "torch": torch.__version__,
    }
    whole = torch.contiguous_format
    return {k: t.clone(memory_format=whole) for k, t in {**tensors, **more}.items()}, metadata


if __name__ == "__main__":
    base.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
