"""Records how PEFT trains, for tests/peft_training_test.cpp: 50 steps of AdamW on the tiny checkpoints of
transformers_models.py, dropout off, all steps on the same batch.

    python tests/golden/peft_training.py [OUT.safetensors]

Of a case CASE: CASE.a.KEY the adapter before the first step and CASE.b.KEY after the last, as PEFT names its
tensors; CASE.losses [1, 51], before each step and after the last. The metadata's `cases` has lines
"CASE BASE PROJECTOR", and CASE is the adapter_config.json. Everything in float64.
"""

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
from peft_models import tidy

PACKAGES = ["torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "numpy", "safetensors"]
FILE = pathlib.Path(__file__).with_name("peft_training.safetensors")
TOLERANCE = 1e-9  # 50 steps of Adam magnify rounding
STEPS, LR, DECAY = 50, 0.01, 0.1

LLAMA = ["q_proj", "v_proj"]
CASES = {
    "bert": (
        "bert_cls",
        "lora:rank=3,alpha=5",
        peft.LoraConfig(r=3, lora_alpha=5, target_modules=["query", "output.dense"]),
    ),
    "gpt2": (
        "gpt2",
        "lora:rank=3,alpha=5",
        peft.LoraConfig(r=3, lora_alpha=5, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True),
    ),
    "llama": ("llama_tied", "lora:rank=3,alpha=5", peft.LoraConfig(r=3, lora_alpha=5, target_modules=LLAMA)),
    "rslora": (
        "llama_untied",
        "lora:rank=3,alpha=5,scaling=rslora",
        peft.LoraConfig(r=3, lora_alpha=5, target_modules=LLAMA, use_rslora=True),
    ),
    "dora": (
        "bert_cls",
        "dora:rank=3,alpha=5,norm=detached",
        peft.LoraConfig(r=3, lora_alpha=5, target_modules=["key", "value"], use_dora=True),
    ),
    "loha": ("bert_cls", "loha:rank=2,alpha=3", peft.LoHaConfig(r=2, alpha=3, target_modules=["key"])),
    "lokr": (
        "llama_tied",
        "lokr:rank=2,alpha=3",
        peft.LoKrConfig(r=2, alpha=3, target_modules=["up_proj", "q_proj"]),
    ),
}


def loss_of(model, read):
    given = {"input_ids": read["ids"], "attention_mask": read["mask"]}
    if "types" in read:
        given["token_type_ids"] = read["types"]
    logits = model(**given).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), read["labels"].flatten())


def saved(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        config = tidy(pathlib.Path(f"{folder}/adapter_config.json").read_text())
        return load_file(f"{folder}/adapter_model.safetensors"), config


def record():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    plain = modeling_llama.LlamaRMSNorm.forward, modeling_llama.LlamaRotaryEmbedding.forward
    modeling_llama.LlamaRMSNorm.forward = models.norm
    modeling_llama.LlamaRotaryEmbedding.forward = models.angles
    tensors, metadata = {}, {
        "cases": "\n".join(f"{name} {on} {spec}" for name, (on, spec, _) in CASES.items()),
        "command": "python tests/golden/peft_training.py",
        "peft": peft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    try:
        for name, (on, _, config) in CASES.items():
            plain_model, _, _, read = models.CASES[on]()
            model = peft.get_peft_model(plain_model, config).double().eval()
            trained = [(key, w) for key, w in model.named_parameters() if w.requires_grad]
            with torch.no_grad():
                for key, w in trained:
                    if "magnitude" in key:  # starts at the norms of the rows
                        continue
                    zero = any(part in key for part in ("lora_B", "hada_w2_a", "lokr_w1"))
                    drawn = base.uniform((1, w.numel()), f"training {name} {key}").reshape(w.shape)
                    w.copy_((0 if zero else 0.5) * drawn.float())
            start, metadata[name] = saved(model)
            rule = torch.optim.AdamW([w for _, w in trained], lr=LR, weight_decay=DECAY)
            losses = []
            for _ in range(STEPS):
                rule.zero_grad()
                loss = loss_of(model, read)
                loss.backward()
                losses.append(loss.item())
                rule.step()
            losses.append(loss_of(model, read).item())
            end, _ = saved(model)
            tensors[f"{name}.losses"] = torch.tensor([losses], dtype=torch.float64)
            tensors.update({f"{name}.a.{key}": w for key, w in start.items()})
            tensors.update({f"{name}.b.{key}": w for key, w in end.items()})
    finally:
        modeling_llama.LlamaRMSNorm.forward, modeling_llama.LlamaRotaryEmbedding.forward = plain
    return tensors, metadata


if __name__ == "__main__":
    base.save(sys.argv[1] if len(sys.argv) > 1 else FILE, *record())
