"""Does the torch installed here still do what tests/golden/torch.safetensors says?

    python tests/golden/check.py          exit code 0: yes, to 1e-12 · max(1, |value|); 1: no

Records again in memory and prints one line per case; then tries python/record_gradients.py against
autograd.
"""

import pathlib
import sys
import tempfile

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import record

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
    print(f"{what:22} {worst:8.1e} {'ok' if ok else 'OFF'}")
    return ok


def group(key, names):
    case = key.split(".")[0]
    return case if case in names else "inputs"


def check_golden():
    old = load_file(record.FILE)
    with safe_open(record.FILE, "pt") as file:
        old_metadata = file.metadata()
    new, metadata = record.record()
    print(f"recorded with torch {old_metadata['torch']}, here {metadata['torch']}; deviations:")
    ok = True
    for line in ("cases", "kept"):
        if metadata[line] != old_metadata[line]:
            print(f"the file's {line} are not those of record.py: record it again")
            ok = False
    names = [line.split()[0] for line in metadata["cases"].splitlines()]
    for name in ["inputs", *names]:
        parts = [
            {key: t for key, t in tensors.items() if group(key, names) == name}
            for tensors in (new, old)
        ]
        ok &= report(name, deviation(*parts))
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
    ok = check_golden()
    for dtype, tolerance in ((torch.float64, 1e-15), (torch.float32, 1e-6)):
        what = f"gradients {dtype}".replace("torch.", "")
        ok &= report(what, check_record_gradients(dtype), tolerance)
    sys.exit(0 if ok else 1)
