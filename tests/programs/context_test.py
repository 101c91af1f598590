"""context as a user calls it: its tables agree with each other, the same bits after an interruption and for any number of
jobs, verdicts that follow from the intervals, bad input.

    python3 tests/programs/context_test.py BUILD/bin
"""
import csv
import json
import math
import os
import random
import signal
import subprocess
import tempfile
import time

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-context-")
WAYS = ["full fine-tuning", "LoRA", "LoRA + embeddings + norms"]


def text():
    """Sentences of a few words, each of which calls for a next one."""
    draw = random.Random(1)
    words = "the king went out of his house and said unto all people hear now what is come".split()
    at, out = 0, []
    for _ in range(12000):
        at = draw.randrange(len(words)) if draw.random() < 0.2 else (at + 1) % len(words)
        out.append(words[at])
    return " ".join(out)


DATA = os.path.join(WORK, "data")
os.makedirs(DATA)
with open(os.path.join(DATA, "old.txt"), "w", encoding="utf-8") as file:
    file.write(text())
MODEL = "layers=1,heads=2,width=16,length=16,pretrain_batch=16,pretrain_steps=120,windows=16"
TINY = ["--data", DATA, "--cache", os.path.join(WORK, "cache"), "--model", MODEL, "--bucket", "8", "--steps", "12", "--seeds", "3",
        "--lr", "1e-3,1e-2", "--lengths", "64", "256", "--repeats", "3", "--lora", "lora:rank=2,alpha=4"]


def command(*flags):
    return [os.path.join(BIN, "context"), *flags]


def call(*flags):
    return subprocess.run(command(*flags), capture_output=True, text=True, timeout=120, cwd=WORK)


def rows(folder, file):
    with open(os.path.join(WORK, folder, file), newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def read(folder, file):
    with open(os.path.join(WORK, folder, file), encoding="utf-8") as whole:
        return whole.read()


def results():
    done = call(*TINY, "--out", "main", "--jobs", "1")
    check("a small run ends with 0", done.returncode == 0, done.stderr)
    table = rows("main", "table.csv")
    loss = {(r["attention"], r["method"], r["seed"]): float(r["loss"]) for r in table}
    check("three curves under two attentions", {k[:2] for k in loss if k[0]} == {(a, w) for a in ("full", "sparse") for w in WAYS})
    untrained = loss["", "no training", "all"]
    check("full fine-tuning lowers the loss", all(loss[a, WAYS[0], "all"] < untrained for a in ("full", "sparse")), loss)
    head, blocks, norms = 256 * 16, 4 * 16 * 16 + 3 * 48 * 16, 3 * 16  # and as many in the embeddings as in the head
    lora = 4 * 2 * (16 + 16)
    check("what each way trains is counted", [int(r["trainable"]) for r in table if r["seed"] == "1"][:3] ==
          [2 * head + blocks + norms, lora, lora + head + norms], [r["trainable"] for r in table])
    check("differences are paired by seed", all(
        math.isclose(float(r["minus_full"]), loss[r["attention"], r["method"], r["seed"]] - loss["full", WAYS[0], r["seed"]],
                     abs_tol=1e-12) for r in table if r["seed"] in ("1", "2", "3")))
    check("bits are nats by ln 2", all(math.isclose(float(r["bits_per_byte"]) * math.log(2), float(r["loss"])) for r in table))
    sums = {}
    for r in rows("main", "positions.csv"):
        sums.setdefault((r["attention"], r["method"], r["seed"] or "all"), []).append(float(r["loss"]))
    check("losses by position have the loss as their mean", all(
        math.isclose(sum(sums[k]) / 8, value, rel_tol=1e-5) and len(sums[k]) == 8 for k, value in loss.items()
        if k[2] != "all" or not k[0]), sums)
    check("sparse attention in training changes what is learnt", loss["full", "LoRA", "1"] != loss["sparse", "LoRA", "1"])
    times = rows("main", "times.csv")
    check("groups of a quarter are timed", [(t["length"], t["group"]) for t in times] == [("64", "16")] * 3 + [("256", "64")] * 3)
    claims = json.loads(read("main", "summary.json"))["claims"]
    check("every claim has a verdict", len(claims) == 10 and {c["verdict"] for c in claims} <= {"holds", "does not", "undecided"})
    all_of = {(r["attention"], r["method"]): r for r in table if r["seed"] == "all"}
    gap = all_of["full", "LoRA"]
    expected = ("holds" if float(gap["minus_full_low"]) > 0.01 else "does not" if float(gap["minus_full_high"]) < 0.01
                else "undecided")
    check("a verdict is what its interval says", claims[1]["verdict"] == expected, (claims[1], gap))
    wide = call(*TINY, "--out", "wide", "--margin", "5", "--jobs", "2")
    claims = json.loads(read("wide", "summary.json"))["claims"]
    check("within a wide margin nothing falls short", [c["verdict"] for c in claims[1:8]] ==
          ["does not", "undecided", "does not", "undecided", "holds", "holds", "holds"], claims)
    check("the same bits with two jobs", wide.returncode == 0 and
          [read("wide", f) for f in ("table.csv", "positions.csv")] == [read("main", f) for f in ("table.csv", "positions.csv")])


def resumed():
    running = subprocess.Popen(command(*TINY, "--out", "stopped", "--jobs", "1"), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, cwd=WORK)
    part = os.path.join(WORK, "stopped", "sparse", "metrics.csv")
    for _ in range(1200):
        if running.poll() is not None or os.path.exists(part):
            break
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    check("a signal ends it with 130", running.wait(60) in (130, 0), running.returncode)
    check("it had not finished", not os.path.exists(os.path.join(WORK, "stopped", "table.csv")))
    again = call(*TINY, "--out", "stopped", "--resume", "--jobs", "1")
    check("what was there is taken over", again.returncode == 0 and "runs are there already" in again.stderr, again.stderr)
    check("resumed gives the same bits", all(read("stopped", f) == read("main", f) for f in ("table.csv", "positions.csv")))


def refused():
    def bad(code, needle, *flags):
        kept = [f for at, f in enumerate(TINY) if f not in flags and (at == 0 or TINY[at - 1] not in flags)]
        done = call(*kept, *flags, "--out", "bad")
        lines = done.stderr.strip().splitlines()
        check(f"{' '.join(flags)[-60:]!r}: {code}, {needle!r}", done.returncode == code and needle in done.stderr and
              1 <= len(lines) <= 3 and not os.path.exists(os.path.join(WORK, "bad")) and not done.stdout, (done.returncode, done.stderr))

    bad(3, "scripts/fetch-texts", "--data", "/nowhere")
    bad(2, "below the new length", "--group", "64")
    bad(2, "arch=llama", "--model", MODEL + ",arch=gpt2")
    bad(2, "--bucket", "--bucket", "5")
    bad(2, "--factor", "--factor", "1")
    bad(2, "no projector", "--lora", "lorra")
    bad(2, "matches no", "--also", "layernrom")
    bad(2, "no option 'depth'", "--model", "layers=1,depth=3")


for part_of_it in (results, resumed, refused):
    part_of_it()
end()
