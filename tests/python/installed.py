"""An installed package, used as a user does: python tests/python/installed.py, from another folder."""

import pathlib

import gradview
import torch
from gradview import _library

here = pathlib.Path(gradview.__file__).resolve()
tree = pathlib.Path(__file__).resolve().parents[2]
assert tree not in here.parents, f"{here} is in the tree"
for dtype in _library.NAMES:
    library = pathlib.Path(_library.load(dtype)._name).resolve()
    assert library.parent == here.parent, f"{library} is not beside {here}"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).to(dtype)
    optimizer = gradview.ProjectedOptimizer(model, {"0|2": "lora:rank=2,alpha=4"}, lr=0.02)
    x, y = torch.randn(64, 8, dtype=dtype), torch.randint(3, (64,))
    losses = []
    for _ in range(50):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1, losses
print(f"gradview {gradview.__version__} works from {here.parent}")
