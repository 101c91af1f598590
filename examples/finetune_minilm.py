"""MiniLM-L6 learns to classify WordNet glosses (Debian: wordnet-base) by their 45 classes, by any method of GradView or PEFT's LoRA:

    python examples/finetune_minilm.py --model "$(scripts/fetch-minilm)" --method lora:rank=8,alpha=16 --lr 1e-3
"""
import argparse, json, random, resource, statistics, time
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

from gradview import ProjectedOptimizer


def glosses(folder):
    """(text, class) of every synset: the definition before its first example sentence, and the number of its file."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (Path(folder) / f"data.{part}").read_text().splitlines():
            if not line.startswith(" "):
                fields, text = line.split(" | ", 1)
                yield text.split('; "')[0].strip(), int(fields.split()[1])


def optimizer_for(model, method, lr, steps):
    if method == "peft":  # the same LoRA by adapter layers, the head trained in full
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig("SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"]))
        return model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr, foreach=True)
    if method == "full":
        return model, ProjectedOptimizer(model, {".*": "full"}, optimizer="adam", lr=lr, rest="full")
    return model, ProjectedOptimizer(model, {"query|value": method, "classifier": "full"}, optimizer="adam", lr=lr, steps=steps)


a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--model", required=True), a.add_argument("--wordnet", default="/usr/share/wordnet")
a.add_argument("--method", default="lora:rank=8,alpha=16"), a.add_argument("--lr", type=float, default=1e-3)
for flag, default in {"steps": 200, "batch": 32, "evaluate": 2000, "seed": 0, "threads": 2}.items():
    a.add_argument(f"--{flag}", type=int, default=default)
a = a.parse_args()
logging.set_verbosity_error(), torch.set_num_threads(a.threads), torch.manual_seed(a.seed)
examples = sorted(set(glosses(a.wordnet)))
random.Random(a.seed).shuffle(examples)
tokenizer = AutoTokenizer.from_pretrained(a.model)
model, optimizer = optimizer_for(AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=45), a.method, a.lr, a.steps)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=a.steps)
batches = [examples[i:i + a.batch] for i in range(0, len(examples) - a.evaluate, a.batch)]
encode = lambda rows: tokenizer([text for text, _ in rows], padding=True, truncation=True, max_length=64, return_tensors="pt")
seconds, losses, resident = [], [], int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
for step in range(a.steps):
    rows = batches[step % len(batches)]
    inputs, start = encode(rows), time.perf_counter()
    loss = model(**inputs, labels=torch.tensor([label for _, label in rows])).loss
    optimizer.zero_grad(), loss.backward(), optimizer.step(), schedule.step()
    seconds.append(time.perf_counter() - start), losses.append(loss.item())
model.eval()
with torch.no_grad():
    held = [examples[-a.evaluate:][i:i + 100] for i in range(0, a.evaluate, 100)]
    right = sum((model(**encode(r)).logits.argmax(1) == torch.tensor([c for _, c in r])).sum().item() for r in held)
print(json.dumps({"method": a.method, "lr": a.lr, "seed": a.seed, "accuracy": right / max(1, a.evaluate), "loss": statistics.mean(losses[-20:]),
                  "seconds_per_step": statistics.median(seconds),
                  "resident_MB": resident, "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
