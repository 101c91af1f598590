"""The same training by PEFT and torch.optim, by galore-torch and by apollo-torch: losses and weights."""

import pathlib
import sys
import unittest

import torch
from common import LOSSES, TASKS, ProjectedOptimizer, copy_of, largest_difference, needs, pattern, train

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "golden"))
STEPS, LR = 200, 5e-4
SEED, EVERY = 7, 50  # of galore's and apollo's frames
NOT_SQUARE = {  # Conv1D keeps Wᵀ: which side is the smaller one differs where W is square
    "MlpTask": ["0", "2", "4"],
    "Gpt2Task": ["c_attn", "c_fc", "mlp.c_proj"],
    "BertTask": ["query", "value", "dense"],
}
PEFT = {  # options of LoraConfig, our spec, the ratio of LoRA+
    "lora": ({}, "lora:rank=4,alpha=10", 1),
    "rslora": ({"use_rslora": True}, "lora:rank=4,alpha=10,scaling=rslora", 1),
    "lora+": ({}, "lora:rank=4,alpha=10,lr_ratio=4", 4),
    "dora": ({"use_dora": True}, "dora:rank=4,alpha=10,norm=detached", 1),
}


def peft_layers(model):
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def give_peft_factors(optimizer, peft_model):
    for path, layer in peft_layers(peft_model).items():
        u, v = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        optimizer.set_factors(path, u=u.detach(), v=v.detach())


class Peers(unittest.TestCase):
    def compare(self, what, task, other, theirs, ours, mine, accumulate=1):
        """The largest difference of losses, printed so that a run can be quoted."""
        batches = task.batches(STEPS)
        losses = train(task, other, theirs, batches, accumulate)
        found = largest_difference(losses, train(task, ours, mine, batches, accumulate))
        kind, dtype = type(task).__name__, str(task.dtype).replace("torch.", "")
        learnt = f"loss {sum(losses[:10]) / 10:.2f} to {sum(losses[-10:]) / 10:.2f}"
        print(f"{what:32} {kind:9} {dtype:8} {learnt:20} {found:.1e}")
        self.assertLess(found, LOSSES[task.dtype])

    @needs("peft", "transformers")
    def test_peft_with_adamw(self):
        from peft import LoraConfig, get_peft_model

        for kind in TASKS:
            for name, (options, spec, ratio) in PEFT.items():
                for dtype in LOSSES:
                    with self.subTest(kind.__name__, method=name, dtype=dtype):
                        task = kind(dtype)
                        ours, base = copy_of(task.model), copy_of(task.model)
                        config = LoraConfig(
                            r=4, lora_alpha=10, target_modules=task.matrices,
                            fan_in_fan_out=kind.__name__ == "Gpt2Task", **options,
                        )
                        other = get_peft_model(base, config).to(dtype)
                        groups = {False: [], True: []}
                        for parameter_name, parameter in other.named_parameters():
                            if parameter.requires_grad:
                                groups["lora_B" in parameter_name].append(parameter)
                        theirs = torch.optim.AdamW(
                            [{"params": p, "lr": LR * (ratio if b else 1)} for b, p in groups.items()],
                            weight_decay=0.01,
                        )
                        mine = ProjectedOptimizer(
                            ours, {pattern(task.matrices): spec}, "adamw:weight_decay=0.01", lr=LR
                        )
                        give_peft_factors(mine, other)
                        self.compare(f"PEFT {name}", task, other, theirs, ours, mine)

    @needs("transformers")
    def test_full_with_torch_optim(self):
        rules = {
            "adamw:weight_decay=0.01": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01),
            "sgd:momentum=0.9,nesterov=true": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True),
        }
        for kind in TASKS:
            for rule, make in rules.items():
                for dtype in LOSSES:
                    with self.subTest(kind.__name__, rule=rule, dtype=dtype):
                        task = kind(dtype)
                        ours, other = copy_of(task.model), copy_of(task.model)
                        decayed = [p for p in other.parameters() if p.dim() >= 2]
                        vectors = [p for p in other.parameters() if p.dim() < 2]
                        theirs = make([{"params": decayed}, {"params": vectors, "weight_decay": 0}])
                        lr = theirs.param_groups[0]["lr"]
                        mine = ProjectedOptimizer(ours, {pattern(task.matrices): "full"}, rule, lr, rest="full")
                        self.compare(f"torch {rule}", task, other, theirs, ours, mine, 2)

    def one_sided(self, what, spec, group, make, lr):
        for kind in TASKS:
            for dtype in LOSSES:
                with self.subTest(kind.__name__, dtype=dtype):
                    task = kind(dtype)
                    ours, other = copy_of(task.model), copy_of(task.model)
                    names = pattern(NOT_SQUARE[kind.__name__])
                    rule = "adam:eps=1e-6,bias_correction=rate"
                    mine = ProjectedOptimizer(ours, {names: spec}, rule, lr=lr, seed=SEED)
                    trained = {slot.name for slot in mine._slots}
                    for name, parameter in other.named_parameters():
                        parameter.requires_grad_(name in trained)
                    parameters = {n: p for n, p in other.named_parameters() if n in trained}
                    theirs = make([{"params": list(parameters.values()), **group}], parameters)
                    self.compare(what, task, other, theirs, ours, mine, 2)

    @needs("galore_torch", "transformers")
    def test_galore(self):
        import galore_adamw

        galore_adamw.package("galore_torch")
        from galore_torch import adamw

        adamw.GaLoreProjector.get_orthogonal_matrix = galore_adamw.exact_frames  # with fixed signs
        group = {"rank": 4, "update_proj_gap": EVERY, "scale": 0.5, "proj_type": "std"}
        self.one_sided(
            "galore-torch", f"galore:rank=4,refresh_every={EVERY},scale=0.5", group,
            lambda groups, _: adamw.AdamW(groups, lr=1e-2, no_deprecation_warning=True), 1e-2,
        )  # fmt: skip

    @needs("apollo_torch", "transformers")
    def test_apollo(self):
        import apollo_adamw
        import philox

        apollo_adamw.package("apollo_torch")
        from apollo_torch import apollo, random_projector

        def make(groups, parameters):
            names, drawn, made = list(parameters), [], next(iter(parameters.values())).dtype

            def randn(shape, seed, device=None, dtype=None):  # GradView's frames instead of its own
                purpose = philox.RIGHT_FRAME if shape[0] < shape[1] else philox.LEFT_FRAME
                name, step = names[len(drawn) % len(names)], len(drawn) // len(names) * EVERY
                drawn.append(name)
                if transposes[name] == "Conv1D":  # a frame of W is one of Wᵀ on the other side
                    purpose = philox.LEFT_FRAME + philox.RIGHT_FRAME - purpose
                    return philox.normal(shape[::-1], SEED, purpose, name, step).t().to(made)
                return philox.normal(shape, SEED, purpose, name, step).to(made)

            random_projector.stable_randn = randn
            return apollo.AdamW(groups, lr=1e-2)

        transposes = {}
        for kind in TASKS:
            for path, module in kind().model.named_modules():
                transposes[f"{path}.weight"] = type(module).__name__
        group = {
            "rank": 4, "proj": "random", "proj_type": "std", "update_proj_gap": EVERY, "scale": 2,
            "scale_type": "channel",
        }  # fmt: skip
        self.one_sided("apollo-torch", f"apollo:rank=4,refresh_every={EVERY},scale=2", group, make, 1e-2)


if __name__ == "__main__":
    unittest.main()
