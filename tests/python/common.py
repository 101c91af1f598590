"""What the tests of python/gradview share: small models, batches, and two trainings side by side."""

import copy
import os
import pathlib
import sys
import unittest

import torch

FOLDER = str(pathlib.Path(__file__).resolve().parents[2] / "python")
sys.path.insert(0, FOLDER)
PYTHON = {**os.environ, "PYTHONPATH": FOLDER}
from gradview import ProjectedOptimizer  # noqa: E402

torch.set_num_threads(1)
LOSSES = {torch.float32: 1e-5, torch.float64: 1e-10}  # over 200 steps


def needs(*modules):
    """Skips a test where a package is not installed."""
    import importlib.util

    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return unittest.skipIf(absent, f"not installed: {', '.join(absent)}")


class Task:
    """A model, seeded batches for it, and its loss."""

    def __init__(self, dtype=torch.float64, seed=0):
        torch.manual_seed(seed)
        self.dtype = dtype
        self.model = self.make().to(dtype)

    def batches(self, count, seed=1):
        generator = torch.Generator().manual_seed(seed)
        return [self.batch(generator, k) for k in range(count)]


class MlpTask(Task):
    """Three linear layers on tokens of batches whose size changes; labels of a fixed random network."""

    matrices = ["0", "2", "4"]

    def make(self):
        layers = torch.nn.Linear(12, 20), torch.nn.ReLU(inplace=True), torch.nn.Linear(20, 16)
        self.teacher = torch.randn(12, 5, dtype=self.dtype)
        return torch.nn.Sequential(*layers, torch.nn.Tanh(), torch.nn.Linear(16, 5))

    def batch(self, generator, k):
        x = torch.randn(3 + k % 2, 7, 12, dtype=self.dtype, generator=generator)
        return x, (x @ self.teacher).argmax(-1)

    def loss(self, model, batch):
        return torch.nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


class Gpt2Task(Task):
    """The next token of sequences that count upwards from anywhere; Conv1D keeps Wᵀ."""

    matrices = ["c_attn", "c_proj", "c_fc"]

    def make(self):
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=37, n_positions=16, n_embd=24, n_layer=2, n_head=3,
                resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
                initializer_range=0.2,
            )
        )

    def batch(self, generator, _):
        return (torch.randint(37, (6, 1), generator=generator) + torch.arange(12)) % 37

    def loss(self, model, batch):  # transformers' own is rounded to float
        logits = model(input_ids=batch).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


class BertTask(Task):
    """Which of four tokens comes most often."""

    matrices = ["query", "value", "dense"]

    def make(self):
        from transformers import BertConfig, BertForSequenceClassification

        return BertForSequenceClassification(
            BertConfig(
                vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                intermediate_size=40, max_position_embeddings=16, num_labels=4,
                hidden_dropout_prob=0, attention_probs_dropout_prob=0, initializer_range=0.2,
            )
        )

    def batch(self, generator, _):
        tokens = torch.randint(4, 40, (8, 10), generator=generator)
        labels = torch.randint(4, (8,), generator=generator)
        tokens[:, 3:8] = labels[:, None]
        return tokens, labels

    def loss(self, model, batch):
        return torch.nn.functional.cross_entropy(model(input_ids=batch[0]).logits, batch[1])


TASKS = (MlpTask, Gpt2Task, BertTask)


def train(task, model, optimizer, batches, accumulate=1):
    """The loss of every batch; a step after each `accumulate` of them."""
    losses = []
    for k, batch in enumerate(batches):
        loss = task.loss(model, batch)
        loss.backward()
        losses.append(loss.item())
        if (k + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def largest_difference(a, b):
    return max(abs(x - y) for x, y in zip(a, b))


def pattern(names):
    return "(" + "|".join(rf"(^|\.){name}$" for name in names) + ")"


def copy_of(model):
    return copy.deepcopy(model)
