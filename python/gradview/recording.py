"""Records the gradients of a model's linear layers, as GradView's `replay` reads them.

    from gradview import record

    recorder = record(model, r"^layers\\.\\d+\\.fc")    # a regex, or a list: ["fc1", "fc2.weight"]
    for batch in batches:
        loss_of(model, batch).backward()              # once or, with micro-batches, several times
        recorder.step()                               # beside optimizer.step(), before or after it
        optimizer.step()
        optimizer.zero_grad()
    recorder.save("W.safetensors", "G.safetensors")

    replay --weights W.safetensors --gradients G.safetensors --projector lora:rank=8 …

W holds the weights as they were when `record` was called, under their names in the model
("fc1.weight"), m outputs x n inputs. G holds for each the pair NAME.delta [steps, N, m] and NAME.x
[steps, N, n] over N tokens, batch and sequence flattened: deltaᵀ x of a step is what backward() adds
to weight.grad in it. Calls of a layer within one step, micro-batches, and layers that share one weight
follow each other along N, which has to be the same at every step. Passes without a backward
(evaluation) are not recorded. Values keep the dtype of the weight; a loss scaler's factor is in delta
as it is in weight.grad. Under autocast weight.grad is rounded to 16 bits where deltaᵀ x is not. Frozen
weights are recorded too. Needs torch and safetensors.

Only torch.nn.Linear and GPT-2's Conv1D are seen, and only where their forward is called: not the
projections inside torch.nn.MultiheadAttention. A weight shared with another kind of layer (an
embedding) is refused, since part of its gradient would be missing.
"""

import re

import torch

from . import _layers
from ._matching import parameters_of


class Recorder:
    def __init__(self, model, names):
        self.weights, self.pending, self.steps, self.hooks = {}, {}, {}, []
        for parameter in parameters_of(model):
            name = parameter.name
            linear = [_is_layer(module) and what == "weight" for module, what in parameter.uses]
            if not any(linear) or not any(chosen(each, names) for each in parameter.names):
                continue
            if not all(linear):
                raise ValueError(f"record: {name} is also a weight of another kind of layer")
            weight = parameter.tensor.detach()
            weight = weight.t() if parameter.used_only_as(_layers.is_conv1d) else weight
            self.weights[name] = weight.to("cpu", copy=True, memory_format=torch.contiguous_format)
            self.pending[name], self.steps[name] = [], []
            for module in {id(module): module for module, _ in parameter.uses}.values():
                self.hooks.append(_layers.tap(module, self._keep(name)))
        if not self.weights:
            raise ValueError(f"record: no torch.nn.Linear of the model matches {names!r}")

    def _keep(self, name):
        def copied(tensor):  # [N, features]; nothing changes it in place
            return tensor.detach().to("cpu", self.weights[name].dtype, copy=True)

        return lambda x, delta: self.pending[name].append((copied(delta), copied(x)))

    def step(self):
        """Ends a step: what came since the last one is its gradient."""
        for name, calls in self.pending.items():
            if not calls:
                raise ValueError(f"step: no gradient reached {name} since the last step")
            delta, x = (torch.cat(parts) for parts in zip(*calls))
            if self.steps[name] and self.steps[name][0][0].shape != delta.shape:
                expected = len(self.steps[name][0][0])
                raise ValueError(f"step: {name} saw {len(delta)} tokens, at first {expected}")
            self.steps[name].append((delta, x))
            calls.clear()

    def save(self, weights_file, gradients_file):
        """Writes both files and takes the hooks off the model."""
        from safetensors.torch import save_file

        if not all(self.steps.values()):
            raise ValueError("save: nothing recorded; call step() after each backward()")
        gradients = {}
        for name, steps in self.steps.items():
            deltas, xs = zip(*steps)
            gradients.update({f"{name}.delta": torch.stack(deltas), f"{name}.x": torch.stack(xs)})
        save_file(self.weights, weights_file)
        save_file(gradients, gradients_file)
        for hook in self.hooks:
            hook.remove()


def _is_layer(module):
    return _layers.is_linear(module) or _layers.is_conv1d(module)


def chosen(weight_name, names):
    if isinstance(names, str):
        return re.search(names, weight_name) is not None
    return weight_name in names or weight_name[: -len(".weight")] in names


def record(model, names=r"\.weight$|^weight$"):
    """Starts recording the linear layers whose weights `names`, a regex or a list, chooses."""
    return Recorder(model, names)
