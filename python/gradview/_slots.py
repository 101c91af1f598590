"""What the optimizer holds of each matrix, and what it has changed about the model."""

import dataclasses
import weakref

import torch

from ._library import NAMES
from ._matching import Parameter

HALF = (torch.bfloat16, torch.float16)


@dataclasses.dataclass
class Slot:
    """One matrix (or vector, 1 x n) that the library trains."""

    parameter: Parameter
    group: int
    matrix: torch.Tensor  # m x n, rows without gaps: the parameter's memory, or a master in float
    tapped: bool  # δ and x by hooks; else autograd's dense .grad
    transposed: bool  # the parameter is Wᵀ, as GPT-2 keeps it
    address: int  # of the parameter's memory
    reached: bool = False  # by a gradient, ever

    @property
    def name(self):
        return self.parameter.name

    @property
    def has_master(self):
        return self.matrix.data_ptr() != self.address

    def view(self, tensor):
        """The parameter, or what has its shape (.grad), as m x n."""
        if self.transposed:
            return tensor.t()
        return tensor.reshape(tensor.shape[0], -1) if tensor.dim() >= 2 else tensor.reshape(1, -1)

    def check_address(self):
        if self.parameter.tensor.data_ptr() != self.address:
            raise RuntimeError(
                f"the memory of {self.name} is another now (model.to(), load_state_dict(assign=True)?); "
                "make the optimizer after that"
            )


class Undo:
    """What was changed about the model, to be undone when the optimizer goes."""

    def __init__(self, handle):
        self.handle, self.handles = handle, []
        self.requires_grad, self.transposed, self.owned = [], [], []

    def _set(self, tensor, value):
        self.requires_grad.append((tensor, tensor.requires_grad))
        tensor.requires_grad_(value)

    def freeze(self, tensor):
        self._set(tensor, False)
        tensor.grad = None

    def unfreeze(self, tensor):
        self._set(tensor, True)

    def own(self, tensor, optimizer):
        tensor.gradview_owner = weakref.ref(optimizer)
        self.owned.append(tensor)

    def transpose_memory(self, tensor):
        """Same shape and values, column after column, so that Wᵀ is W without gaps."""
        tensor.data = tensor.data.t().contiguous().t()
        self.transposed.append(tensor)

    def __call__(self):
        for handle in self.handles:
            handle.remove()
        for tensor, value in reversed(self.requires_grad):
            tensor.requires_grad_(value)
        for tensor in self.transposed:
            tensor.data = tensor.data.contiguous()
        for tensor in self.owned:
            tensor.gradview_owner = None
        self.handle.destroy()


def common_dtype(trained, half):
    """What the library computes in."""
    dtypes = set()
    for parameter in trained:
        tensor = parameter.tensor
        if tensor.device.type != "cpu":
            why = "GradView computes on the CPU" if tensor.device.type != "meta" else "it has no values yet"
            raise ValueError(f"{parameter.name} is on {tensor.device}: {why}")
        if tensor.layout != torch.strided or tensor.is_complex() or not tensor.is_floating_point():
            raise ValueError(f"{parameter.name} is {tensor.layout}, {tensor.dtype}; float or double is needed")
        if tensor.dtype in HALF and half == "master":
            dtypes.add(torch.float32)
        elif tensor.dtype in NAMES:
            dtypes.add(tensor.dtype)
        else:
            raise ValueError(
                f"{parameter.name} is {tensor.dtype}: steps would be lost in its rounding; "
                "half='master' keeps a float copy beside it"
            )
    if len(dtypes) > 1:
        raise ValueError("weights are float32 and float64; one optimizer takes one of them")
    return dtypes.pop()
