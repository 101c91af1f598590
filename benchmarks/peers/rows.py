"""The rows against PyTorch and PEFT."""
import gc
import signal
from importlib.metadata import version

import numpy as np
import torch

from block import Block, adapted, adapters, merged_weights
from race import Library, Race, Task


RATE = 1e-4  # of every Adam, as in benchmarks/c_api.cpp
ADAMS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}


class Bench:
    def __init__(self, options):
        self.quick = options.quick
        self.compile_seconds = 0 if options.quick else options.compile_seconds
        self.threads = options.threads
        self.library = Library(options.library)
        self.library.threads(self.threads)
        torch.set_num_threads(self.threads)
        self.rng = torch.Generator().manual_seed(1)

    def described(self):
        return (f"torch {torch.__version__}, peft {version('peft')}, transformers {version('transformers')}, "
                f"{torch.get_num_threads()} threads each, passive waiting, {self.library.text('gv_instruction_set')}")

    def race(self, contenders):
        return Race(self.library, contenders, 0.04 if self.quick else 0.08, 5 if self.quick else 15)

    def best(self, settings):
        """The fastest of several settings of a peer, name → callable."""
        if len(settings) == 1:
            return next(iter(settings.items()))
        name = Race(self.library, settings, 0.04, 3 if self.quick else 5).fastest()
        return name, settings[name]

    def against(self, ours, settings):
        """Our task against a peer at its best setting."""
        name, peer = self.best(settings)
        race = self.race({"ours": ours, name: peer})
        tried = f"; the fastest of {', '.join(settings)}" if len(settings) > 1 else ""
        return race.ratio(name, "ours"), race.note + tried

    def normal(self, *shape, deviation=1.0):
        return deviation * torch.randn(*shape, generator=self.rng)


def require_close(what, ours, theirs, tolerance):
    """‖ours − theirs‖ ≤ tolerance · ‖theirs‖, else there is nothing to compare."""
    theirs = np.asarray(theirs.detach(), dtype=np.float64)
    error = np.linalg.norm(np.asarray(ours, dtype=np.float64) - theirs) / np.linalg.norm(theirs)
    if not error <= tolerance:
        raise SystemExit(f"peers: {what} of ours and of torch differ by {error:.2g} of its norm, more than {tolerance:.2g}: not the same work")


def project(bench):
    m, n, r = 768, 3072, 4
    g, u, v = bench.normal(m, n), bench.normal(m, r), bench.normal(r, n)
    ours = Task(bench.library, "project", m, n, r)
    ours.set(g=g, u=u, v=v)
    gv, ug = torch.empty(m, r), torch.empty(r, n)

    def into():
        torch.mm(g, v.T, out=gv)
        torch.mm(u.T, g, out=ug)

    def fresh():
        return g @ v.T, u.T @ g

    into()
    ours()
    require_close("G vᵀ", ours.get("gv", gv), gv, 1e-5)
    require_close("uᵀ G", ours.get("ug", ug), ug, 1e-5)
    return bench.against(ours, {"mm into ready outputs": into, "mm": fresh})


def update(bench):
    m = n = 4096
    r = 4
    w, u, v = bench.normal(m, n, deviation=0.03), bench.normal(m, r), bench.normal(r, n)
    du, dv = bench.normal(m, r, deviation=1e-4), bench.normal(r, n, deviation=1e-4)
    ours = Task(bench.library, "update", m, n, r)
    ours.set(w=w, u=u, v=v, du=du, dv=dv)
    start = w.clone()

    def two():
        w.addmm_(du, v)
        w.addmm_(u, dv)

    left, right = torch.cat([du, u], 1), torch.cat([v, dv])

    def one():
        w.addmm_(left, right)

    two()
    ours()
    require_close("the change of W", ours.get("w", w) - start.numpy(), w - start, 1e-4)
    race = bench.race({"ours": ours, "two addmm_": two, "one addmm_ of rank 2r": one})
    alone = race.ratio("one addmm_ of rank 2r", "ours")[0]
    return race.ratio("two addmm_", "ours"), f"{race.note}; against one addmm_ {alone:.2f} times"


def adam(bench):
    size = 4096
    w, g = bench.normal(size, size, deviation=0.03), bench.normal(size, size)
    ours = Task(bench.library, "adam", size, size)
    ours.set(w=w, g=g)
    settings = {}
    for name, setting in ADAMS.items():
        parameter = torch.nn.Parameter(w.clone())
        parameter.grad = g
        settings[f"Adam {name}"] = torch.optim.Adam([parameter], lr=RATE, **setting).step
    first = settings["Adam fused"].__self__.param_groups[0]["params"][0]
    for _ in range(3):
        ours()
        settings["Adam fused"]()
    require_close("the change of W", ours.get("w", w) - w.numpy(), first - w, 1e-4)
    return bench.against(ours, settings)


class TooLong(Exception):
    pass


def compiled(model, step, seconds):
    """A step with torch.compile, or why there is none."""
    if seconds <= 0:
        return None, "torch.compile not tried"

    def too_long(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        fast = torch.compile(model)
        for _ in range(2):
            step(fast)
        return lambda: step(fast), ""
    except TooLong:
        return None, f"torch.compile not done in {seconds:.0f} s"
    except Exception as error:  # no compiler, or one that does not work
        return None, f"torch.compile failed: {str(error).splitlines()[0][:100]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Step:
    """Forward, backward and Adam of one model, its input's gradient among it."""

    def __init__(self, make_model, x, delta, how, bf16):
        self.model = make_model()
        self.x = x.clone().requires_grad_(True)
        self.delta, self.bf16 = delta, bf16
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.trained, lr=RATE, **how)

    def __call__(self, model=None):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            self.y = (self.model if model is None else model)(self.x)
        self.y.backward(self.delta.to(self.y.dtype))
        self.adam.step()
        self.dx, self.x.grad = self.x.grad, None
        self.adam.zero_grad(set_to_none=True)


def block_step(bench, lora, bf16=False, kind="block lora"):
    """Our LoRA's step against PEFT's or against torch's full fine-tuning, the fastest of eager and compiled with the fastest Adam.

    First three steps of the same method must agree.
    """
    d, tokens, rank = 768, 512, 8
    torch.manual_seed(1)
    base = Block(d)
    x, delta = bench.normal(tokens, d), bench.normal(tokens, d, deviation=1e-3)
    start = adapters(base, rank, bench.normal) if lora else {}

    def make_model():
        return adapted(base, rank, start) if lora else base.copy()

    ours = Task(bench.library, kind if lora else "block full", d, tokens)
    ours.set(x=x, delta=delta)
    for name, weight in base.weights().items():
        merged = weight.clone()
        if lora:
            u, v = start[name]
            merged += u @ v
            ours[f"block1.{name}.weight.u"], ours[f"block1.{name}.weight.v"] = u, v
        ours[f"block1.{name}.weight"] = merged

    steps = {name: Step(make_model, x, delta, how, bf16) for name, how in ADAMS.items()}
    reference = steps["fused"]
    # Adam's first steps are nearly the signs of the gradient: an entry near zero may take either.
    y_error, dx_error, change_error = (1e-2, 3e-2, 0.3) if bf16 else (1e-5, 2e-3, 2e-3)
    for _ in range(3):
        ours()
        reference()
    require_close("y after two steps", ours.get("y", x), reference.y.float(), y_error)
    require_close("∂L/∂x", ours.get("dx", x), reference.dx.float(), dx_error)
    before, after = merged_weights(make_model()), merged_weights(reference.model)
    for name, weight in after.items():
        change = ours.get(f"block1.{name}.weight", weight) - before[name].numpy()
        require_close(f"the change of {name}", change, weight - before[name], change_error)

    name, _ = bench.best(steps)
    best = steps[name]
    what = "PEFT" if lora else "torch"
    precision = ", bf16 autocast" if bf16 else ""
    settings = {f"{what} eager, Adam {name}{precision}": best}
    fast, why = compiled(best.model, best, bench.compile_seconds)
    if fast:
        settings[f"{what} compiled, Adam {name}{precision}"] = fast
    del steps
    gc.collect()
    if not lora:
        ours = Task(bench.library, kind, d, tokens)
    figure, note = bench.against(ours, settings)
    return figure, note + f"; Adam {name} the fastest of {', '.join(ADAMS)}" + (f"; {why}" if why else "")


def block_bf16(bench):
    kind, remark = "block lora bf16", ""
    try:
        Task(bench.library, kind, 768, 16)
    except RuntimeError:
        kind, remark = "block lora", "ours in float: this build, or this CPU, computes nothing in bf16; "
    figure, note = block_step(bench, lora=True, bf16=True, kind=kind)
    return figure, remark + note


ROWS = {
    "project_768x3072_r4_torch": project,
    "update_4096_r4_torch": update,
    "adam_4096_torch": adam,
    "block_step_768_T512_lora8_peft": lambda bench: block_step(bench, lora=True),
    "block_step_768_T512_lora8_torch_full": lambda bench: block_step(bench, lora=False),
    "block_step_768_T512_lora8_bf16": block_bf16,
}
