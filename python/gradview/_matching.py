"""Which parameters a pattern means, and the error where it means none."""

import dataclasses
import difflib
import re
import typing

import torch


@dataclasses.dataclass
class Parameter:
    """One parameter of the model, under all its names, with the modules that use it."""

    tensor: torch.nn.Parameter
    names: typing.List[str]  # "encoder.fc1.weight"
    uses: typing.List[typing.Tuple[torch.nn.Module, str]]  # (module, "weight")

    @property
    def name(self):
        return self.names[0]

    @property
    def paths(self):  # of the modules, as in named_modules()
        return [name.rpartition(".")[0] for name in self.names]

    def used_only_as(self, test):
        return all(attribute == "weight" and test(module) for module, attribute in self.uses)


def parameters_of(model):
    """Every parameter once, in the model's order."""
    found = {}
    for path, module in model.named_modules():
        for attribute, tensor in module._parameters.items():
            if tensor is None:
                continue
            parameter = found.setdefault(id(tensor), Parameter(tensor, [], []))
            parameter.names.append(f"{path}.{attribute}" if path else attribute)
            parameter.uses.append((module, attribute))
    return list(found.values())


def assign(parameters, patterns):
    """For each pattern the matrices that it is the first to match, by path or name."""
    groups = {pattern: [] for pattern in patterns}
    matrices = [p for p in parameters if p.tensor.dim() >= 2]
    for parameter in matrices:
        names = parameter.paths + parameter.names
        for pattern in patterns:
            if any(re.search(pattern, name) for name in names):
                groups[pattern].append(parameter)
                break
    names = list(dict.fromkeys(path or p.name for p in matrices for path in p.paths))
    for pattern, chosen in groups.items():
        if not chosen:
            raise ValueError(
                f"pattern {pattern!r} matches no matrix that an earlier pattern has not taken"
                + nearest(pattern, names)
            )
    return groups


def nearest(word, names):
    """"; near are 'fc1', 'fc2'", by whole names and by their parts; "" where nothing is near."""
    parts = {part: name for name in reversed(names) for part in [*name.split("."), name]}
    words = [w for w in re.split(r"[|()^$*+?\\]+", word) if w] or [word]
    near = [parts[part] for w in words for part in difflib.get_close_matches(w, parts, 3, 0.5)]
    near = list(dict.fromkeys(near))[:4]
    if near:
        return f"; near are {', '.join(map(repr, near))}"
    return f"; there are {', '.join(map(repr, names[:4]))}{' …' if len(names) > 4 else ''}"

