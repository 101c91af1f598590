"""Adapters as PEFT loads them: adapter_config.json and adapter_model.safetensors.

    base weights + adapter = the weights as they are now

u is lora_B, v is lora_A. A start that has a product of its own (PiSSA, symmetric …) becomes a plain LoRA of
twice the rank, [u | u0][v ; -v0], so that it fits the base that was there before.
"""

import collections
import json
import math
import pathlib

import torch

from . import _layers
from ._library import describe


def export(optimizer, folder):
    """Writes what the optimizer has trained into `folder`, which is made."""
    from safetensors.torch import save_file

    adapted, saved, kinds = [], {}, set()
    for slot in optimizer._slots:
        options = describe(slot.matrix.dtype, optimizer.param_groups[slot.group]["projector"])
        if options["method"] == "full":
            saved.update(_whole_modules(slot))
        else:
            kinds.add(options["method"])
            adapted.append(_Adapted(optimizer, slot, options))
    if not adapted:
        raise ValueError("export_peft: there is no adapter; all that is trained is trained whole")
    methods = {name: WRITERS.get(name) for name in sorted(kinds)}
    if None in methods.values():
        missing = [name for name, writer in methods.items() if writer is None]
        raise ValueError(f"export_peft: PEFT has no {missing[0]}; there are {', '.join(WRITERS)}")
    if len(set(methods.values())) > 1:
        raise ValueError(f"export_peft: {', '.join(methods)}; PEFT takes one method in an adapter")
    config, tensors = next(iter(methods.values()))(adapted)
    config.update(
        base_model_name_or_path=None,
        inference_mode=True,
        target_modules=_targets(optimizer, [a.path for a in adapted]),
    )
    if any(a.slot.transposed for a in adapted) and config["peft_type"] in FAN_IN_FAN_OUT:
        config["fan_in_fan_out"] = True
    if saved:
        config["modules_to_save"] = sorted({path for path, _ in saved})
    tensors = {f"base_model.model.{name}": value for name, value in tensors.items()}
    tensors.update({f"base_model.model.{path}.{name}": value for (path, name), value in saved.items()})
    if "vera_A" in config:
        tensors.update({f"base_model.{name}": config.pop(name) for name in ("vera_A", "vera_B")})
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


FAN_IN_FAN_OUT = ("LORA", "ADALORA", "VERA")


class _Adapted:
    """One adapted matrix: its factors, its options, its scale."""

    def __init__(self, optimizer, slot, options):
        self.slot, self.options = slot, options
        self.factors = optimizer.factors(slot.name, frozen=True)
        modules = [module for module, _ in slot.parameter.uses]
        self.embedding = all(_layers.is_embedding(module) for module in modules)
        if len(set(map(id, modules))) > 1:
            raise ValueError(f"export_peft: {slot.name} is shared by {len(modules)} layers")
        layer = self.embedding or slot.transposed or all(_layers.is_linear(module) for module in modules)
        if not layer:
            raise ValueError(f"export_peft: {slot.name} is not of a Linear, an Embedding or a Conv1D")
        self.path = slot.parameter.paths[0]
        self.rank = int(options["rank"])
        alpha = options.get("alpha", "=")
        self.alpha = self.rank if alpha.startswith("=") else float(alpha)

    @property
    def scale(self):
        root = self.options.get("scaling") == "rslora"
        return self.alpha / (math.sqrt(self.rank) if root else self.rank)

    def only_linear(self, method):
        if self.embedding:
            raise ValueError(f"export_peft: PEFT's {method} has no embeddings, and {self.path} is one")
        return self


def _lora(adapted):
    dora = {a.options["method"] == "dora" for a in adapted}
    if len(dora) > 1:
        raise ValueError("export_peft: dora and lora; PEFT takes one of them in an adapter")
    root = all(a.options.get("scaling") == "rslora" and "u0" not in a.factors for a in adapted)
    ranks, alphas, tensors = {}, {}, {}
    for a in adapted:
        u, v = a.factors["u"], a.factors["v"]
        if "u0" in a.factors:
            u = torch.cat([u, a.factors["u0"]], 1)
            v = torch.cat([v, -a.factors["v0"]], 0)
        ranks[a.path] = len(v)
        alphas[a.path] = _tidy(a.scale * (math.sqrt(len(v)) if root else len(v)))
        if dora == {True}:
            a.only_linear("dora")
            tensors[f"{a.path}.lora_magnitude_vector"] = a.factors["magnitude"].flatten()
        if a.embedding:
            tensors.update({f"{a.path}.lora_embedding_A": u.t(), f"{a.path}.lora_embedding_B": v.t()})
        else:
            tensors.update({f"{a.path}.lora_A.weight": v, f"{a.path}.lora_B.weight": u})
    config = {"peft_type": "LORA", "use_rslora": root, "use_dora": dora == {True}, "bias": "none"}
    return {**config, **_with_patterns(ranks, alphas, "lora_alpha")}, tensors


def _adalora(adapted):
    rank, alpha = max(a.rank for a in adapted), adapted[0].alpha
    tensors = {}
    for a in adapted:
        a.only_linear("adalora")
        u, v, singular = a.factors["u"], a.factors["v"], a.factors["lambda"]
        missing = rank - len(v)  # PEFT has one rank for all, and divides by it and a little more
        scale = a.alpha / (a.rank + (0 if a.options["variant"] == "paper" else 1e-5))
        singular = singular * (scale * (rank + 1e-5) / alpha)
        tensors[f"{a.path}.lora_A"] = torch.nn.functional.pad(v, (0, 0, 0, missing))
        tensors[f"{a.path}.lora_B"] = torch.nn.functional.pad(u, (0, missing))
        tensors[f"{a.path}.lora_E"] = torch.nn.functional.pad(singular, (0, 0, 0, missing))
    config = {"peft_type": "ADALORA", "init_r": rank, "lora_alpha": _tidy(alpha), "bias": "none"}
    return {**config, "target_r": rank, "total_step": 1, "tinit": 0, "tfinal": 0, "deltaT": 1}, tensors


def _hadamard(adapted):
    tensors, ranks, alphas = {}, {}, {}
    names = {"u1": "hada_w1_a", "v1": "hada_w1_b", "u2": "hada_w2_a", "v2": "hada_w2_b"}
    for a in adapted:
        _not_transposed(a.only_linear("loha"), "loha")
        tensors.update({f"{a.path}.{names[k]}": a.factors[k] for k in names})
        ranks[a.path] = len(a.factors["v1"])
        alphas[a.path] = _tidy(a.scale * ranks[a.path])
    return {"peft_type": "LOHA", **_with_patterns(ranks, alphas, "alpha")}, tensors


def _kronecker(adapted):
    tensors, ranks, alphas = {}, {}, {}
    for a in adapted:
        _not_transposed(a.only_linear("lokr"), "lokr")
        tensors.update({f"{a.path}.lokr_{k}": value for k, value in a.factors.items()})
        ranks[a.path], alphas[a.path] = a.rank, _tidy(a.alpha)
    options = adapted[0].options
    if any(a.options[k] != options[k] for a in adapted for k in ("decompose", "factor")):
        raise ValueError("export_peft: decompose and factor of lokr are to be the same everywhere")
    if options["decompose"] == "none":
        ranks = {path: 10**6 for path in ranks}  # at which PEFT keeps both sides whole
        alphas = {a.path: _tidy(a.scale * 10**6) for a in adapted}
    return {
        "peft_type": "LOKR",
        "decompose_both": options["decompose"] == "both",
        "decompose_factor": int(options["factor"]) or -1,
        **_with_patterns(ranks, alphas, "alpha"),
    }, tensors


def _vera(adapted):
    frames_u = max((a.factors["u"] for a in adapted), key=len)
    frames_v = max((a.factors["v"] for a in adapted), key=lambda v: v.shape[1])
    tensors = {}
    for a in adapted:
        a.only_linear("vera")
        u, v = a.factors["u"], a.factors["v"]
        wide = frames_v[: len(v), : v.shape[1]]
        ratio = (v.norm() / wide.norm()).item()  # ours are scaled by their own n
        close = dict(rtol=1e-5, atol=1e-7)
        if a.rank != adapted[0].rank or not torch.allclose(u, frames_u[: len(u)], **close):
            raise ValueError("export_peft: PEFT's vera has the same frames, of one rank, everywhere")
        if not torch.allclose(v, ratio * wide, **close):
            raise ValueError("export_peft: PEFT's vera has the same frames, of one rank, everywhere")
        tensors[f"{a.path}.vera_lambda_b"] = a.factors["b"].flatten()
        tensors[f"{a.path}.vera_lambda_d"] = ratio * a.factors["d"].flatten()
    config = {"peft_type": "VERA", "r": len(frames_v), "save_projection": True, "bias": "none"}
    return {**config, "vera_A": frames_v, "vera_B": frames_u}, tensors


WRITERS = {
    "lora": _lora,
    "lora_fa": _lora,
    "dora": _lora,
    "adalora": _adalora,
    "loha": _hadamard,
    "lokr": _kronecker,
    "vera": _vera,
}


def _whole_modules(slot):
    """Of what is trained whole: all parameters of its module, under (path, name)."""
    out = {}
    for path, (module, _) in zip(slot.parameter.paths, slot.parameter.uses):
        if not path:
            raise ValueError(f"export_peft: {slot.name} is trained whole and belongs to no module")
        out.update({(path, name): value for name, value in module.named_parameters(recurse=False)})
    return out


def _not_transposed(a, method):
    if a.slot.transposed:
        raise ValueError(f"export_peft: PEFT's {method} has no Conv1D, and {a.path} is one")


def _tidy(number):
    return int(round(number)) if abs(number - round(number)) < 1e-12 * abs(number) else number


def _with_patterns(ranks, alphas, alpha_key):
    """r and alpha of most modules, and rank_pattern and alpha_pattern for the others."""
    (rank, alpha), _ = collections.Counter((ranks[p], alphas[p]) for p in ranks).most_common(1)[0]
    return {
        "r": rank,
        alpha_key: alpha,
        "rank_pattern": {p: r for p, r in ranks.items() if r != rank},
        "alpha_pattern": {p: a for p, a in alphas.items() if a != alpha},
    }


def _targets(optimizer, paths):
    """The paths as PEFT takes them: a list, or a regex where the end of another path is one of them."""
    others = [path for slot in optimizer._slots for path in slot.parameter.paths if path not in paths]
    others += [path for path in optimizer._other_paths if path not in paths]
    if any(other.endswith(f".{path}") for other in others for path in paths):
        return "|".join(path.replace(".", r"\.") for path in paths)
    return paths
