"""The six linear layers of a transformer block, as benchmarks/block.hpp has them, and PEFT's LoRA on all of them."""
import torch

LINEARS = ("q", "k", "v", "o", "up", "down")


class Block(torch.nn.Module):
    def __init__(self, d):
        super().__init__()
        self.d = d
        for name in LINEARS:
            setattr(self, name, torch.nn.Linear(4 * d if name == "down" else d, 4 * d if name == "up" else d, bias=False))

    def forward(self, x):
        z = x + self.o((self.q(x) + self.k(x) + self.v(x)) / 3)
        return z + self.down(torch.relu(self.up(z)))

    def weights(self):
        return {name: getattr(self, name).weight.detach() for name in LINEARS}

    def copy(self):
        other = Block(self.d)
        other.load_state_dict(self.state_dict())
        return other


def adapters(base, rank, normal):
    """Factors u (m x r), v (r x n) of every layer, neither of them zero, so that all gradients are at work."""
    return {name: (normal(w.shape[0], rank, deviation=0.01), normal(rank, w.shape[1], deviation=0.01))
            for name, w in base.weights().items()}


def adapted(base, rank, start):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules=list(LINEARS))
    model = get_peft_model(base.copy(), config)
    with torch.no_grad():
        for name, (u, v) in start.items():
            layer = getattr(model.base_model.model, name)
            layer.lora_A["default"].weight.copy_(v)
            layer.lora_B["default"].weight.copy_(u)
    return model


def merged_weights(model):
    """W + s u v of every layer, or W where there is no adapter."""
    inner = model.base_model.model if hasattr(model, "base_model") else model
    out = {}
    for name in LINEARS:
        layer = getattr(inner, name)
        weight = layer.weight.detach().clone()
        if hasattr(layer, "lora_A"):
            weight += layer.lora_B["default"].weight.detach() @ layer.lora_A["default"].weight.detach()
        out[name] = weight
    return out
