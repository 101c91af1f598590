"""Where a weight's gradient comes from: taps behind layers, or autograd's dense .grad.

A tap is the identity on a layer's output. It keeps the layer's input x, and in backward passes on the
output's gradient δ and hands (x, δ) over. The weight itself is frozen for autograd.
"""

import torch


class Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, x, anchor, collect):
        """anchor requires grad, so that the result does, even where nothing before it is trained."""
        ctx.save_for_backward(x)  # autograd then refuses an x that was changed in place
        ctx.collect = collect
        return output.data  # the same memory, and no view: the next layer may write into it

    @staticmethod
    def backward(ctx, delta):
        (x,) = ctx.saved_tensors
        if delta.numel() > 0:
            ctx.collect(x, delta)
        return delta, None, None, None


def is_linear(module):
    """y = x Wᵀ + b, computed where the module is called (not so inside MultiheadAttention)."""
    kind = type(module)
    inside = getattr(torch.nn.modules.linear, "NonDynamicallyQuantizableLinear", ())
    return (
        isinstance(module, torch.nn.Linear)
        and kind.forward is torch.nn.Linear.forward
        and not isinstance(module, inside)
    )


def is_conv1d(module):
    """GPT-2's linear layer, y = x W + b, of transformers."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and module.weight.dim() == 2


def is_embedding(module):
    """Rows of W by their indices, and a gradient that is the sum of δ at each."""
    return (
        isinstance(module, torch.nn.Embedding)
        and type(module).forward is torch.nn.Embedding.forward
        and module.max_norm is None
        and not module.scale_grad_by_freq
        and not module.sparse
    )


def gradient(module, x, delta):
    """What Handle.collect takes, of one call of the layer: x tokens x inputs, δ tokens x outputs."""
    delta = delta.reshape(-1, delta.shape[-1])
    if not isinstance(module, torch.nn.Embedding):
        return {"x": x.reshape(-1, x.shape[-1]), "delta": delta}
    index = x.reshape(-1).to(torch.int64)
    if module.padding_idx is not None:
        trained = index != module.padding_idx
        index, delta = index[trained], delta[trained]
    return {"x": delta, "index": index.contiguous()}


def tap(module, collect):
    """A hook on module; collect(**gradient(…)) is called in each backward pass through it."""
    anchor = torch.empty(0, requires_grad=True)

    def backward(x, delta):
        with torch.no_grad():
            collect(**gradient(module, x, delta))

    def after_forward(called, arguments, named, output):
        if called is not module or not torch.is_grad_enabled():  # a copy of the module has the hook too
            return None
        x = arguments[0] if arguments else next(iter(named.values()))
        return Tap.apply(output, x.detach(), anchor, backward)

    return module.register_forward_hook(after_forward, with_kwargs=True)
