"""Do the packages installed here still do what the recordings in tests/golden say?

    python tests/golden/check.py          exit code 0: yes, to 1e-12 · max(1, |value|); 1: no

Runs every module of recordings.py again, in memory, and prints its largest deviation and the case
where it is (all that are off); one whose packages are not here is skipped. Then tries
python/record_gradients.py against autograd.
"""

import importlib
import importlib.metadata
import pathlib
import re
import sys
import tempfile

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import recordings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python"))
import record_gradients

TOLERANCE = 1e-12


def deviation(new, old):
    """Largest |new − old| / max(1, |old|); infinite where names, shapes or NaNs differ."""
    if {k: t.shape for k, t in new.items()} != {k: t.shape for k, t in old.items()}:
        return float("inf")
    worst = [((new[k] - old[k]).abs() / old[k].abs().clamp(min=1)).max().item() for k in old]
    return max(worst) if all(d == d for d in worst) else float("inf")


def report(what, worst, tolerance=TOLERANCE):
    ok = worst <= tolerance
    print(f"{what:34} {worst:8.1e} {'ok' if ok else 'OFF'}")
    return ok


def name_of(package):
    return re.split(r"[=<>~! ;[]", package)[0]


def missing(package):
    try:
        importlib.metadata.version(name_of(package))
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


def case_of(key):
    return key.split(".")[0]


def check_recording(name):
    packages = recordings.packages(name)
    absent = [package for package in packages if missing(package)]
    if absent:
        print(f"{name:34} skipped, not installed here: {', '.join(absent)}")
        return True
    module = importlib.import_module(name)
    old = load_file(module.FILE)
    with safe_open(module.FILE, "pt") as file:
        old_metadata = file.metadata()
    new, metadata = module.record()
    ok = True
    versions = {name_of(package) for package in packages}
    for key in sorted(metadata.keys() | old_metadata.keys()):
        if metadata.get(key) == old_metadata.get(key):
            continue
        if key in versions:
            print(f"{name}: recorded with {key} {old_metadata.get(key)}, here {metadata.get(key)}")
        else:
            print(f"{name}: '{key}' of the file is not that of {name}.py: record it again")
            ok = False
    worst = {}
    for case in sorted({case_of(key) for key in [*new, *old]}):
        parts = [{k: t for k, t in tensors.items() if case_of(k) == case} for tensors in (new, old)]
        worst[case] = deviation(*parts)
    tolerance = getattr(module, "TOLERANCE", TOLERANCE)
    largest = max(worst, key=worst.get)
    for case, value in worst.items():
        if value > tolerance or case == largest:
            ok &= report(f"{name}: {case}", value, tolerance)
    return ok


class Net(torch.nn.Module):
    """A layer called twice, a bias, a sequence, two layers with one weight, an update in place."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh())
        self.twice = torch.nn.Linear(7, 7)
        self.head = torch.nn.Linear(7, 3, bias=False)
        self.tied = torch.nn.Linear(7, 3, bias=False)
        self.tied.weight = self.head.weight

    def forward(self, x):
        h = self.twice(self.inner(x)).relu_()
        return self.head(self.twice(h)) + self.tied(h)


def check_record_gradients(dtype):
    """Largest deviation of deltaᵀ x from weight.grad over three steps of two micro-batches."""
    torch.manual_seed(0)
    model = Net().to(dtype)
    start = {name: w.detach().clone() for name, w in model.named_parameters() if w.dim() == 2}
    recorder = record_gradients.record(model, "weight$")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    for _ in range(3):
        for _ in range(2):
            model(torch.randn(4, 6, 5, dtype=dtype)).square().mean().backward()
            model(torch.randn(2, 6, 5, dtype=dtype))
            with torch.no_grad():
                model(torch.randn(2, 6, 5, dtype=dtype))
        recorder.step()
        expected.append({name: model.get_parameter(name).grad.clone() for name in start})
        optimizer.step()
        optimizer.zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        files = f"{folder}/W.safetensors", f"{folder}/G.safetensors"
        recorder.save(*files)
        weights, gradients = map(load_file, files)
    worst = deviation(weights, start)
    for step, grads in enumerate(expected):
        products = {
            name: gradients[f"{name}.delta"][step].T @ gradients[f"{name}.x"][step]
            for name in grads
        }
        worst = max(worst, deviation(products, grads))
    kinds = {t.dtype for t in [*weights.values(), *gradients.values()]}
    return worst if kinds == {dtype} and len(gradients) == 2 * len(start) else float("inf")


if __name__ == "__main__":
    ok = all([check_recording(name) for name in recordings.MODULES])
    for dtype, tolerance in ((torch.float64, 1e-15), (torch.float32, 1e-6)):
        what = f"gradients {dtype}".replace("torch.", "")
        ok &= report(what, check_record_gradients(dtype), tolerance)
    sys.exit(0 if ok else 1)
