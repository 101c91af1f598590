"""GradView's projectors as a torch.optim.Optimizer: the model stays as it is, W moves in place.

    from gradview import ProjectedOptimizer

    optimizer = ProjectedOptimizer(model, {"query|value": "lora:rank=8,alpha=16"}, lr=1e-4)
"""

from ._library import NotFiniteError
from .optimizer import ProjectedOptimizer
from .recording import record

__all__ = ["NotFiniteError", "ProjectedOptimizer", "record"]


def __getattr__(name):
    if name == "__version__":  # the library's, which is loaded only now
        from ._library import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
