"""Records what transformers computes, for tests/hf_golden_test.cpp to repeat: logits, loss and the
gradient of every weight of tiny random checkpoints.

    python tests/golden/transformers_models.py [OUT.safetensors]

    bert_cls      BertForSequenceClassification: token types, padding on the left and on the right
    bert_mean     BertModel, the mean of its unpadded states, a linear head
    gpt2          GPT2LMHeadModel: tied head, Conv1D of three shapes
    llama_tied    LlamaForCausalLM: 3 heads over 1 key-value head of another width
    llama_untied  4 heads over 2, own head, biases, linear RoPE scaling

Of a case CASE: CASE.w.NAME the tensors of its checkpoint, CASE.g.NAME the gradients, CASE.logits
(of every position, [batch · length, classes]; of a classifier [batch, labels]), CASE.loss, and what it read:
CASE.ids, CASE.mask, CASE.types, CASE.labels [batch, length]; the metadata's CASE is its config.json.
Everything in float64; the weights are numbers that float32 has. transformers computes Llama's
norms and angles in float32 whatever the model is in: here they are in float64 too. A position whose next
token is padded, or is not there, has no label, nor has a padded one.
"""

import json
import pathlib
import sys

import torch
import transformers
from transformers.models.llama import modeling_llama

import record as base

PACKAGES = ["torch==2.13.0", "transformers==5.23.0", "numpy", "safetensors"]
FILE = pathlib.Path(__file__).with_name("transformers_models.safetensors")

VOCABULARY, LENGTH = 13, 6
MASK = [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
NONE = -100


def norm(self, x):
    return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


def angles(self, x, position_ids):
    rope = self.config.rope_parameters
    width = self.config.head_dim
    rates = rope["rope_theta"] ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    turns = position_ids[..., None].double() * rates / rope.get("factor", 1.0)
    turns = torch.cat((turns, turns), dim=-1)
    return turns.cos(), turns.sin()


def integers(shape, bound, key):
    return ((base.uniform(shape, key) + 1) / 2 * bound).long()


def randomize(model, name):
    with torch.no_grad():
        for key, w in model.named_parameters():
            rows = base.uniform((1, w.numel()), f"{name} {key}").reshape(w.shape)
            one = 1 if "norm" in key.lower() or ".ln_" in key else 0
            w.copy_((one * ("weight" in key) + 0.5 * rows).float())
    return model.double().eval()


def sizes(**more):
    return {"vocab_size": VOCABULARY, "attn_implementation": "sdpa", **more}


def encoder(pooled):
    """A classifier by transformers, or the mean and a linear head by hand."""
    config = transformers.BertConfig(
        **sizes(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=10,
            max_position_embeddings=8,
            num_labels=3,
            layer_norm_eps=1e-3,
        )
    )
    name = "bert_cls" if pooled else "bert_mean"
    whole = randomize(transformers.BertForSequenceClassification(config), name)
    mask = torch.tensor(MASK)
    ids = integers(mask.shape, VOCABULARY, f"ids {name}")
    types = integers(mask.shape, 2, f"types {name}")
    labels = torch.tensor([2, 0, 1])
    read = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if pooled:
        logits = whole(**read).logits
    else:
        states = whole.bert(**read).last_hidden_state
        kept = mask[..., None].double()
        logits = whole.classifier((states * kept).sum(1) / kept.sum(1))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return whole, logits, loss, {"ids": ids, "mask": mask, "types": types, "labels": labels[:, None]}


def decoder(name, model):
    model = randomize(model, name)
    mask = torch.tensor(MASK)
    ids = integers(mask.shape, VOCABULARY, f"ids {name}")
    logits = model(input_ids=ids, attention_mask=mask).logits
    next_kept = torch.cat((mask[:, 1:], torch.zeros(len(mask), 1)), dim=1) * mask
    next_ids = torch.cat((ids[:, 1:], ids[:, :1]), dim=1)
    labels = torch.where(next_kept > 0, next_ids, torch.tensor(NONE))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return model, logits.flatten(0, 1), loss, {"ids": ids, "mask": mask, "labels": labels}


def gpt2():
    config = transformers.GPT2Config(
        **sizes(n_embd=12, n_layer=2, n_head=2, n_positions=9, n_inner=10, layer_norm_epsilon=1e-3)
    )
    return decoder("gpt2", transformers.GPT2LMHeadModel(config))


def llama(tied):
    more = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 6}
    if not tied:
        rope = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
        more = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
        more |= {"rope_parameters": rope, "attention_bias": True, "mlp_bias": True}
    config = transformers.LlamaConfig(
        **sizes(
            hidden_size=12,
            num_hidden_layers=2,
            intermediate_size=10,
            max_position_embeddings=16,
            rms_norm_eps=1e-3,
            tie_word_embeddings=tied,
            **more,
        )
    )
    name = "llama_tied" if tied else "llama_untied"
    return decoder(name, transformers.LlamaForCausalLM(config))


CASES = {
    "bert_cls": lambda: encoder(True),
    "bert_mean": lambda: encoder(False),
    "gpt2": gpt2,
    "llama_tied": lambda: llama(True),
    "llama_untied": lambda: llama(False),
}


def record():
    torch.set_num_threads(1)
    plain = modeling_llama.LlamaRMSNorm.forward, modeling_llama.LlamaRotaryEmbedding.forward
    modeling_llama.LlamaRMSNorm.forward = norm
    modeling_llama.LlamaRotaryEmbedding.forward = angles
    tensors, metadata = {}, {
        "cases": " ".join(CASES),
        "command": "python tests/golden/transformers_models.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    try:
        for name, run in CASES.items():
            model, logits, loss, read = run()
            loss.backward()
            for key, w in model.named_parameters():
                tensors[f"{name}.w.{key}"] = w.detach().clone()
                if w.grad is not None:
                    tensors[f"{name}.g.{key}"] = w.grad.clone()
            tensors[f"{name}.logits"] = logits.detach().clone()
            tensors[f"{name}.loss"] = loss.detach().reshape(1, 1)
            tensors.update({f"{name}.{key}": t.double() for key, t in read.items()})
            model.config.architectures = [type(model).__name__]
            config = json.loads(model.config.to_json_string(use_diff=False))
            metadata[name] = json.dumps(config, sort_keys=True)
    finally:
        modeling_llama.LlamaRMSNorm.forward, modeling_llama.LlamaRotaryEmbedding.forward = plain
    return {k: t.contiguous() for k, t in tensors.items()}, metadata


if __name__ == "__main__":
    base.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
