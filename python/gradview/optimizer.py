"""ProjectedOptimizer: a torch.optim.Optimizer that projects each matrix's gradient and moves W in place."""

import typing
import warnings
import weakref

import torch

from . import _layers
from ._library import FROZEN, Handle
from ._matching import assign, nearest, parameters_of
from ._slots import Slot, Undo, common_dtype


class ProjectedOptimizer(torch.optim.Optimizer):
    """Trains the matrices of `model` that patterns choose, each by one of GradView's methods.

    model       any module on the CPU. Its weights stay where they are and are moved in place.
    projectors  {pattern: spec}: a regex that is searched in module paths ("layer.0.query") and parameter
                names, and a spec such as "lora:rank=8,alpha=16". The first pattern that matches wins.
    optimizer   "adamw:weight_decay=0.01", "sgd:momentum=0.9" …: one rule for all
    lr          of every group; param_groups has one for each pattern, whose "lr" each step reads
    rest        what happens to all other parameters: "frozen", or "full" trains those that require grad
                (vectors are not decayed)
    seed        of the methods' random numbers
    steps       of the whole run, for methods with a schedule of their own; 0 where it is not known
    half        bfloat16 and float16 weights are refused ("refuse") or kept in float beside ("master")

    For torch.nn.Linear, Embedding and GPT-2's Conv1D, hooks take δ and x in backward, and the weight's
    requires_grad is False: the full gradient is not formed unless the method forms it. Other matrices
    (those of convolutions as m x rest) come with autograd's .grad. step() uses up what was collected.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        projectors: typing.Mapping[str, str],
        optimizer: str = "adamw",
        lr: float = 1e-3,
        rest: str = "frozen",
        *,
        seed: int = 0,
        steps: int = 0,
        half: str = "refuse",
    ):
        if rest not in ("frozen", "full"):
            raise ValueError(f"rest is {rest!r}; there are 'frozen', 'full'")
        if half not in ("refuse", "master"):
            raise ValueError(f"half is {half!r}; there are 'refuse', 'master'")
        if not lr >= 0:
            raise ValueError(f"lr is {lr}; it is to be at least 0")
        everything = parameters_of(model)
        groups = [
            {"pattern": pattern, "projector": projectors[pattern], "parameters": chosen}
            for pattern, chosen in assign(everything, projectors).items()
        ]
        taken = {id(p.tensor) for group in groups for p in group["parameters"]}
        others = [p for p in everything if id(p.tensor) not in taken]
        if rest == "full":
            chosen = [p for p in others if p.tensor.requires_grad and p.tensor.numel() > 0]
            if chosen:
                groups.append({"pattern": "", "projector": "full", "parameters": chosen})
            others = [p for p in others if not p.tensor.requires_grad]
        trained = [p for group in groups for p in group["parameters"]]
        if not trained:
            raise ValueError("there is nothing to train: no pattern, and rest='frozen'")
        dtype = common_dtype(trained, half)

        self._handle = Handle(dtype, optimizer, seed, steps, torch.get_num_threads())
        self._undo = Undo(self._handle)
        self._finalizer = weakref.finalize(self, self._undo)
        self._slots, self._gathered, self._stepped = [], {}, False
        try:
            for index, group in enumerate(groups):
                for parameter in group["parameters"]:
                    self._add(parameter, index, group["projector"], dtype)
            for parameter in others:
                self._undo.freeze(parameter.tensor)
            defaults = {"lr": lr, "optimizer": optimizer, "seed": seed}
            super().__init__(
                [
                    {
                        "params": [p.tensor for p in group["parameters"]],
                        "pattern": group["pattern"],
                        "projector": group["projector"],
                    }
                    for group in groups
                ],
                defaults,
            )
        except Exception:
            self._finalizer()
            raise
        self._other_paths = [path for p in others for path in p.paths]
        self._by_name = {}
        for slot in self._slots:
            for name in slot.parameter.paths + slot.parameter.names:
                self._by_name.setdefault(name, slot)

    def _add(self, parameter, group, spec, dtype):
        tensor = parameter.tensor
        owner = getattr(tensor, "gradview_owner", None)
        if owner is not None and owner() is not None:
            raise ValueError(f"{parameter.name} is trained by another optimizer; call its remove() first")
        transposed = parameter.used_only_as(_layers.is_conv1d)
        plain = parameter.used_only_as(lambda m: _layers.is_linear(m) or _layers.is_embedding(m))
        if transposed and tensor.dtype == dtype:
            self._undo.transpose_memory(tensor)
        slot = Slot(parameter, group, None, transposed or plain, transposed, tensor.data_ptr())
        view = slot.view(tensor.detach())
        if tensor.dtype != dtype:
            slot.matrix = view.to(dtype, memory_format=torch.contiguous_format)
        elif view.is_contiguous() and view.data_ptr() == slot.address:
            slot.matrix = view
        else:
            raise ValueError(
                f"{parameter.name} has strides {tuple(tensor.stride())} for {tuple(tensor.shape)}; "
                "weights are to be contiguous"
            )
        self._handle.add(parameter.name, spec, slot.matrix, tensor.dim() >= 2)
        self._slots.append(slot)
        self._undo.own(tensor, self)
        if not slot.tapped:
            self._undo.unfreeze(tensor)
            return
        self._undo.freeze(tensor)
        reference = weakref.ref(self)

        def collect(**gradient):
            optimizer = reference()
            if optimizer is not None and optimizer._finalizer.alive:
                slot.check_address()
                slot.reached = True
                optimizer._handle.collect(slot.name, **gradient)

        for module in {id(module): module for module, _ in parameter.uses}.values():
            self._undo.handles.append(_layers.tap(module, collect))

    def add_param_group(self, param_group):
        if hasattr(self, "_by_name"):
            raise NotImplementedError("patterns are given when the optimizer is made")
        super().add_param_group(param_group)

    @torch.no_grad()
    def _gather(self):
        """Takes the .grad of what has no taps, once per step."""
        for slot in self._slots:
            grad = slot.parameter.tensor.grad
            if slot.tapped or grad is None or slot.name in self._gathered:
                continue
            if grad.layout != torch.strided:
                raise ValueError(f"{slot.name}: its .grad is sparse; there is Embedding(sparse=False)")
            slot.check_address()
            matrix = slot.view(grad).to(slot.matrix.dtype).contiguous()
            self._handle.collect(slot.name, matrix, stays=True)
            self._gathered[slot.name] = matrix  # stays until the step

    def step(self, closure=None):
        """Moves every matrix that got a gradient. NotFiniteError, and nothing has moved, where one has
        infinities or NaN; zero_grad() drops it then."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_alive()
        self._gather()
        for slot in self._slots:
            slot.check_address()
        if not self._stepped:
            self._stepped = True
            self._warn_of_unreached()
        rates = [float(self.param_groups[slot.group]["lr"]) for slot in self._slots]
        self._handle.step(rates)
        self._write_back()
        self._gathered.clear()
        super().zero_grad()
        return loss

    def _warn_of_unreached(self):
        names = [slot.name for slot in self._slots if slot.tapped and not slot.reached]
        if names:
            warnings.warn(
                f"no gradient has reached {', '.join(names[:3])}{' …' if len(names) > 3 else ''}: its layer was not "
                "called, its output does not count, or its weight is used without calling it",
                stacklevel=3,
            )

    def _write_back(self, slots=None):
        for slot in self._slots if slots is None else slots:
            if slot.has_master:
                slot.view(slot.parameter.tensor.data).copy_(slot.matrix)

    def zero_grad(self, set_to_none: bool = True):
        """Drops what was collected since the last step."""
        super().zero_grad(set_to_none)
        self._check_alive()
        self._gathered.clear()
        self._handle.drop()

    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """Scales the gradients of all factors together down to max_norm; returns their norm before."""
        self._check_alive()
        self._gather()
        return torch.tensor(self._handle.clip(float(max_norm)))

    def _slot(self, name):
        self._check_alive()
        if name not in self._by_name:
            raise KeyError(f"no trained matrix {name!r}{nearest(name, list(self._by_name))}")
        return self._by_name[name]

    def factors(self, name: str, frozen: bool = False) -> typing.Dict[str, torch.Tensor]:
        """Copies of the factors of one matrix by their names (u: m x r, v: r x n …); name is its module's
        path or its own. frozen: its other state too, such as the frames of galore. Methods that start from
        a gradient (init=lora_ga) have theirs after the first step."""
        out = {}

        def visit(field, role, value):
            if frozen or role != FROZEN:
                out[field] = value.clone()

        self._handle.factors(self._slot(name).name, visit)
        return out

    @torch.no_grad()
    def set_factors(self, name: str, **factors: torch.Tensor):
        """Sets factors of one matrix; W follows by what ΔW changes. State that is not trained (the frames
        of vera) can be set before the first step, and W does not follow."""
        slot = self._slot(name)
        there = self.factors(name, frozen=True)
        for field, value in factors.items():
            if field not in there:
                raise KeyError(f"{slot.name} has no factor {field!r}; there are {', '.join(there) or 'none'}")
            if value.shape != there[field].shape:
                raise ValueError(
                    f"{field} of {slot.name} is {tuple(value.shape)}, expected {tuple(there[field].shape)}"
                )
            if not value.isfinite().all():
                raise ValueError(f"{field} of {slot.name} is not finite")

        def visit(field, _, memory):
            if field in factors:
                memory.copy_(factors[field])

        self._handle.factors(slot.name, visit)
        self._write_back([slot])

    def state_dict(self):
        """Tensors by name, and the param_groups: torch.load(weights_only=True) reads it. The weights are
        the model's to keep."""
        saved = super().state_dict()
        saved["state"] = {}
        self._check_alive()
        self._handle.fields(lambda name, _, value: saved["state"].update({name: value.clone()}))
        for slot in self._slots:
            if slot.has_master:
                saved["state"][f"{slot.name}.master"] = slot.matrix.clone()
        return saved

    @torch.no_grad()
    def load_state_dict(self, state_dict):
        """Goes on from state_dict() of an optimizer that was made by the same call, bit for bit; the
        model's weights are to be those of that moment. What was collected is dropped."""
        self._check_alive()
        state, there = dict(state_dict["state"]), self.state_dict()
        for saved, own in zip(state_dict["param_groups"], there["param_groups"]):
            for key in ("pattern", "projector", "optimizer", "seed"):
                if saved.get(key) != own[key]:
                    raise ValueError(f"load_state_dict: {key} is {saved.get(key)!r} there, {own[key]!r} here")
        for name, value in there["state"].items():
            if name not in state:
                raise ValueError(f"load_state_dict: {name} is missing")
            if state[name].shape != value.shape:
                raise ValueError(
                    f"load_state_dict: {name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}"
                )
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self.zero_grad()
        self._handle.fields(lambda name, _, memory: memory.copy_(state[name]))
        for slot in self._slots:
            if slot.has_master:
                slot.matrix.copy_(state[f"{slot.name}.master"])

    def export_peft(self, folder):
        """Writes the adapter that PEFT loads onto the model as it was: lora and its variants, dora, adalora,
        loha, lokr, vera. What is trained whole goes into modules_to_save. Needs safetensors."""
        from . import peft

        self._check_alive()
        peft.export(self, folder)

    def remove(self):
        """Takes the hooks off the model and gives its parameters their requires_grad back; W stays."""
        self._finalizer()

    def _check_alive(self):
        if not self._finalizer.alive:
            raise RuntimeError("this optimizer was removed")
