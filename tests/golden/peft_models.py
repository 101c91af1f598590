"""Records adapters as PEFT saves them and the logits that it computes with them, for
tests/peft_test.cpp: on the tiny checkpoints of transformers_models.py.

    python tests/golden/peft_models.py [OUT.safetensors]

Of a case CASE: CASE.a.KEY the tensors of adapter_model.safetensors and CASE.logits; the metadata's CASE is its
adapter_config.json, and `cases` has lines "CASE BASE", BASE a case of transformers_models.py. Everything in
float64; the adapters' numbers are drawn, and float32 has them.
"""

import json
import pathlib
import sys
import tempfile

import peft
import torch
import transformers
from safetensors.torch import load_file
from transformers.models.llama import modeling_llama

import record as base
import transformers_models as models

PACKAGES = ["torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "numpy", "safetensors"]
FILE = pathlib.Path(__file__).with_name("peft_models.safetensors")

LLAMA = "q_proj v_proj down_proj".split()
CASES = {
    "bert_lora": (
        "bert_cls",
        peft.LoraConfig(
            task_type="SEQ_CLS",
            r=3,
            lora_alpha=5,
            target_modules=["query", "value", "output.dense"],
            rank_pattern={"value": 2},
            alpha_pattern={"layer.1.attention.self.query": 7},
        ),
    ),
    "bert_dora": (
        "bert_cls",
        peft.LoraConfig(
            r=3, lora_alpha=5, target_modules=r".*layer\.\d\..*(key|dense)", use_dora=True, use_rslora=True
        ),
    ),
    "bert_adalora": (
        "bert_cls",
        peft.AdaLoraConfig(init_r=4, target_r=2, lora_alpha=5, total_step=10, target_modules=["query"]),
    ),
    "bert_loha": (
        "bert_cls",
        peft.LoHaConfig(r=2, alpha=3, target_modules=["key", "intermediate.dense"]),
    ),
    "bert_lokr": ("bert_cls", peft.LoKrConfig(r=2, alpha=3, target_modules=["key", "dense"])),
    "bert_vera": ("bert_cls", peft.VeraConfig(r=5, target_modules=["key", "intermediate.dense", "output.dense"])),
    "gpt2_lora": (
        "gpt2",
        peft.LoraConfig(
            r=3, lora_alpha=5, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, bias="lora_only"
        ),
    ),
    "gpt2_dora": (
        "gpt2",
        peft.LoraConfig(r=3, lora_alpha=5, target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True),
    ),
    "gpt2_adalora": (
        "gpt2",
        peft.AdaLoraConfig(
            init_r=4, target_r=2, lora_alpha=5, total_step=10, target_modules=["c_fc"], fan_in_fan_out=True
        ),
    ),
    "gpt2_vera": ("gpt2", peft.VeraConfig(r=3, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)),
    "llama_vera": ("llama_untied", peft.VeraConfig(r=3, target_modules=LLAMA)),
    "llama_lora": ("llama_tied", peft.LoraConfig(r=3, lora_alpha=5, target_modules=LLAMA)),
    "llama_embedding": (
        "llama_untied",
        peft.LoraConfig(
            r=3, lora_alpha=5, target_modules=["embed_tokens", "o_proj"], use_rslora=True, bias="all"
        ),
    ),
    "llama_dora": ("llama_tied", peft.LoraConfig(r=3, lora_alpha=5, target_modules=LLAMA, use_dora=True)),
    "llama_adalora": (
        "llama_untied",
        peft.AdaLoraConfig(init_r=4, target_r=2, lora_alpha=5, total_step=10, target_modules=LLAMA),
    ),
    "llama_loha": ("llama_tied", peft.LoHaConfig(r=2, alpha=3, target_modules=LLAMA)),
    "llama_lokr": (
        "llama_untied",
        peft.LoKrConfig(r=1, alpha=3, target_modules=LLAMA, decompose_both=True, decompose_factor=4),
    ),
}


def tidy(config):
    """PEFT writes a set in any order."""
    fields = json.loads(config)
    if isinstance(fields["target_modules"], list):
        fields["target_modules"].sort()
    return json.dumps(fields, indent=2, sort_keys=True)


def record():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    plain = modeling_llama.LlamaRMSNorm.forward, modeling_llama.LlamaRotaryEmbedding.forward
    modeling_llama.LlamaRMSNorm.forward = models.norm
    modeling_llama.LlamaRotaryEmbedding.forward = models.angles
    tensors, metadata = {}, {
        "cases": "\n".join(f"{name} {on}" for name, (on, _) in CASES.items()),
        "command": "python tests/golden/peft_models.py",
        "peft": peft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    try:
        for name, (on, config) in CASES.items():
            plain_model, _, _, read = models.CASES[on]()
            model = peft.get_peft_model(plain_model, config).double().eval()
            with torch.no_grad():
                for key, w in model.named_parameters():
                    if not w.requires_grad or "ranknum" in key:  # a count that PEFT does not save
                        continue
                    drawn = base.uniform((1, w.numel()), f"{name} {key}").reshape(w.shape)
                    w.copy_((drawn / 2 + (1.5 if "magnitude" in key else 0)).float())
            given = {"input_ids": read["ids"], "attention_mask": read["mask"]}
            if "types" in read:
                given["token_type_ids"] = read["types"]
            logits = model(**given).logits.detach()
            tensors[f"{name}.logits"] = logits.flatten(0, -2).contiguous()
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder, save_embedding_layers=False)
                kept = load_file(f"{folder}/adapter_model.safetensors")
                metadata[name] = tidy(pathlib.Path(f"{folder}/adapter_config.json").read_text())
            tensors.update({f"{name}.a.{key}": w for key, w in kept.items()})
    finally:
        modeling_llama.LlamaRMSNorm.forward, modeling_llama.LlamaRotaryEmbedding.forward = plain
    return tensors, metadata


if __name__ == "__main__":
    base.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
