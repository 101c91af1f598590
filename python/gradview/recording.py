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
("fc1.weight"). G holds for each the pair NAME.delta [steps, N, m] and NAME.x [steps, N, n] over N
tokens, batch and sequence flattened: deltaᵀ x of a step is what backward() adds to weight.grad in
it. Calls of a layer within one step, micro-batches, and layers that share one weight follow each
other along N, which has to be the same at every step. Passes without a backward (evaluation) are
not recorded. Values keep the dtype of the weight; a loss scaler's factor is in delta as it is in
weight.grad. Under autocast weight.grad is rounded to 16 bits where deltaᵀ x is not. Needs torch and
safetensors.

Only torch.nn.Linear is seen, and only where its forward is called: not Hugging Face's Conv1D
(GPT-2), not the projections inside torch.nn.MultiheadAttention. A weight shared with another kind
of layer (an embedding) is refused, since part of its gradient would be missing.
"""

import re

import torch


class Recorder:
    def __init__(self, model, names):
        names_of = {id(weight): name for name, weight in model.named_parameters()}
        others = [layer for layer in model.modules() if not isinstance(layer, torch.nn.Linear)]
        elsewhere = {id(w) for layer in others for w in layer.parameters(recurse=False)}
        self.weights, self.pending, self.steps, self.hooks = {}, {}, {}, []
        for path, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and chosen(f"{path}.weight".lstrip("."), names):
                name = names_of[id(layer.weight)]
                if id(layer.weight) in elsewhere:
                    raise ValueError(f"record: {name} is also a weight of another kind of layer")
                self.weights[name] = layer.weight.detach().to("cpu", copy=True)
                self.pending[name], self.steps[name] = [], []
                self.hooks.append(layer.register_forward_hook(self._hook(name)))
        if not self.weights:
            raise ValueError(f"record: no torch.nn.Linear of the model matches {names!r}")

    def _hook(self, name):
        def flat(tensor):  # [N, features], a copy that nothing changes in place
            tensor = tensor.detach().reshape(-1, tensor.shape[-1])
            return tensor.to("cpu", self.weights[name].dtype, copy=True)

        def after_forward(_, inputs, output):
            if output.requires_grad:
                x = flat(inputs[0])
                output = output.clone()  # itself a view, it would lose the hook if changed in place
                output.register_hook(lambda delta: self.pending[name].append((flat(delta), x)))
            return output

        return after_forward

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
            gradients |= {f"{name}.delta": torch.stack(deltas), f"{name}.x": torch.stack(xs)}
        save_file(self.weights, weights_file)
        save_file(gradients, gradients_file)
        for hook in self.hooks:
            hook.remove()


def chosen(weight_name, names):
    if isinstance(names, str):
        return re.search(names, weight_name) is not None
    return weight_name in names or weight_name.removesuffix(".weight") in names


def record(model, names=r"\.weight$|^weight$"):
    """Starts recording the linear layers whose weights `names`, a regex or a list, chooses."""
    return Recorder(model, names)
