#!/usr/bin/env python3
"""The same fine-tuning in finetune and in PEFT, in turn: seconds of a step, peak memory, and the loss.

    benchmarks/finetune_peers.py --model "$(scripts/fetch-minilm)" --train glosses.safetensors

LoRA of rank 8 on query and value, the classifier in full, Adam, no dropout, the same texts in the same order, batches padded to
their longest text; float32 in both. One process per run and nothing else on the machine; the two take turns, so that a ratio
is of neighbours. A step's seconds are the median of a run's, memory is the peak of the whole
process. Needs torch, peft, transformers and safetensors, and build/bin/finetune.
"""
import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOSSES = 20  # of the last steps, whose mean is compared


def peer(a):
    """One run of PEFT, in this process; its numbers as JSON."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, logging

    logging.set_verbosity_error(), torch.set_num_threads(a.threads), torch.manual_seed(0)
    texts = load_file(a.train)
    classes = int(texts["labels"].max()) + 1
    model = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=classes)
    model = get_peft_model(model, LoraConfig("SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"]))
    model.eval()  # no dropout
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], a.lr, foreach=True)
    seconds, losses = [], []
    for step in range(a.steps):
        rows = slice(step * a.batch, (step + 1) * a.batch)
        start = time.perf_counter()
        mask = texts["attention_mask"][rows]
        longest = int(mask.sum(1).max())
        inputs = {"input_ids": texts["input_ids"][rows, :longest].long(), "attention_mask": mask[:, :longest].long()}
        loss = model(**inputs, labels=texts["labels"][rows].long()).loss
        adam.zero_grad(), loss.backward(), adam.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds[2:]), "loss": statistics.mean(losses[-LOSSES:])}))


def waited(command, environment):
    """stdout, and the peak memory in MB, of a process."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        child = subprocess.Popen(command, stdout=out, stderr=error, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), error.seek(0)
        if child.returncode:
            sys.exit(f"finetune_peers: error: {' '.join(map(str, command))}\n{error.read()}")
        return out.read(), usage.ru_maxrss / 1024


def ours(a, projector, environment):
    with tempfile.TemporaryDirectory(prefix="gradview-finetune-") as folder:
        run = pathlib.Path(folder) / "run"
        _, peak = waited([a.program, "--model", a.model, "--train", a.train, "--task", "classify", "--projector", projector, "--target",
                          "query|value", "--optimizer", "adam", "--lr", str(a.lr), "--schedule", "constant", "--steps", str(a.steps),
                          "--batch-size", str(a.batch), "--no-shuffle", "--no-dropout", "--threads", str(a.threads), "--no-plot", "--quiet",
                          "--save", str(run)], environment)
        with (run / "log.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    total = [0.0] + [float(row["train_seconds"]) for row in rows]
    steps = [later - earlier for earlier, later in zip(total, total[1:])]
    return {"seconds": statistics.median(steps[2:]), "loss": statistics.mean(float(row["loss"]) for row in rows[-LOSSES:]), "peak": peak}


def theirs(a, environment):
    out, peak = waited([sys.executable, __file__, "--peer", "--model", a.model, "--train", a.train, "--threads", str(a.threads), "--steps",
                        str(a.steps), "--batch", str(a.batch), "--lr", str(a.lr)], environment)
    return {**json.loads(out.strip().splitlines()[-1]), "peak": peak}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--program", default=str(ROOT / "build" / "bin" / "finetune"))
    parser.add_argument("--projector", nargs="+", default=["lora:rank=8,alpha=16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--quick", action="store_true", help="two rounds of 12 steps")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.peer:
        return peer(a)
    if a.quick:
        a.steps, a.rounds = 12, 2
    environment = {**os.environ, "OMP_NUM_THREADS": str(a.threads), "OMP_WAIT_POLICY": "passive"}
    runs = {name: [] for name in ("PEFT", *a.projector)}
    for turn in range(a.rounds):
        runs["PEFT"].append(theirs(a, environment))
        for projector in a.projector:
            runs[projector].append(ours(a, projector, environment))
        print(f"round {turn + 1} of {a.rounds}: " + ", ".join(f"{name} {of[-1]['seconds']:.4f} s" for name, of in runs.items()), file=sys.stderr)
    print("| | s/step | PEFT's time / its [lowest, highest round] | peak memory | PEFT's / its | loss, last steps |\n|---|---|---|---|---|---|")
    for name, of in runs.items():
        ratio = [peft["seconds"] / run["seconds"] for peft, run in zip(runs["PEFT"], of)]
        peak, peft_peak = (statistics.median(run["peak"] for run in each) for each in (of, runs["PEFT"]))
        shown = "PEFT's LoRA, rank=8, alpha=16" if name == "PEFT" else f"`{name}`"
        print(f"| {shown} | {statistics.median(run['seconds'] for run in of):.4f} | {statistics.median(ratio):.2f} [{min(ratio):.2f}, "
              f"{max(ratio):.2f}] | {peak:.0f} MB | {peft_peak / peak:.2f} | {statistics.median(run['loss'] for run in of):.4f} |")


if __name__ == "__main__":
    main()
