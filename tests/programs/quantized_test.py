"""quantized as a user calls it: what 4 bits take and cost, equal bits, resuming, and bad input. Standard library only.

    python3 tests/programs/quantized_test.py BUILD/bin
"""
import csv
import os
import random
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-quantized-")
TEXTS = os.path.join(WORK, "texts")
os.mkdir(TEXTS)
for name, words in (("old", "and the of in was he his to god a that unto"), ("new", "then I had got some off my they wolf for is by")):
    draw = random.Random(name)
    with open(os.path.join(TEXTS, name + ".txt"), "w", encoding="utf-8") as stream:
        stream.write(" ".join(draw.choice(words.split()) for _ in range(12000)))
SMALL = {"--task": "bytes:layers=1,width=32,heads=2,length=32,pretrain_steps=40,start_seed=0,windows=16", "--data": TEXTS, "--cache":
         os.path.join(WORK, "cache"), "--steps": "20", "--eval-every": "10", "--batch-size": "8", "--seeds": "3", "--tune-seeds": "1",
         "--lr": "0.003,0.01"}


def call(*switches, **options):
    flags = SMALL | {"--" + name.replace("_", "-"): value for name, value in options.items()}
    words = [word for flag in flags.items() for word in flag] + ["--quiet", *switches]
    done = subprocess.run([os.path.join(BIN, "quantized"), *words], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def same():
    measured = ("MB of", "bits a number of")
    return text(two, "table.csv").splitlines() == [line for line in text(one, "table.csv").splitlines() if not line.startswith(measured)]


def text(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as stream:
        return stream.read()


one, two = (os.path.join(WORK, name) for name in ("one", "two"))
code, out, error = call(jobs="2", out=one)
check("a small run ends with 0", code == 0, error)
check("its folder is whole", all(os.path.exists(os.path.join(one, name)) for name in (
    "run.json", "metadata.json", "metrics.csv", "layers.csv", "table.csv", "summary.json")), os.listdir(one))
with open(os.path.join(one, "table.csv"), newline="", encoding="utf-8") as stream:
    table = list(csv.DictReader(stream))
means = {(row["figure"], row["base"]): float(row["value"]) for row in table if row["seed"] == "all"}
check("float takes 32 bits a number, nf4 and int4 4.127", abs(means["bits a number of W", "float"] - 32) < 1e-9 and all(
    abs(means["bits a number of W", base] - 4.127) < 0.001 for base in ("nf4", "int4")), means)
# 285 MB of W in float would show; x, y, their gradients, the adapter and BLAS are some 10 MB.
check("no pass makes W whole again", all(means["MB of a pass", base] < means["MB of W", "float"] / 8 for base in ("nf4", "int4")), means)
seeds = {(row["figure"], row["base"], row["seed"]): float(row["value"]) for row in table if row["seed"] not in ("all", "")}
for base in ("nf4", "int4"):
    for seed in "123":
        gap = seeds["loss, nothing trained", base, seed] - seeds["loss, nothing trained", "float", seed]
        check(f"the gap of {base} under seed {seed} is a difference of losses", abs(gap - seeds["gap", base, seed]) < 1e-12, gap)
        check(f"{base} is not float under seed {seed}", gap != 0, gap)
verdicts = [row for row in table if row["verdict"]]
check("every claim has a verdict", {row["figure"] for row in verdicts} == {"costs", "recovers", "better code", "better base"} and all(
    row["verdict"] in ("holds", "does not", "undecided", "no gap") for row in verdicts), verdicts)
for base in ("nf4", "int4"):
    share, gap = means["share", base], next(row for row in table if row["figure"] == "gap" and row["base"] == base and row["seed"] == "all")
    check(f"{base} has a share where its gap is one", (share == share) == (float(gap["low"]) > 0 or float(gap["high"]) < 0), (share, gap))
check("adapting helps on every base", all(means["loss, adapted", base] < means["loss, nothing trained", base] for base in ("float", "nf4", "int4")),
      means)

code, out_two, error = call("--no-memory", jobs="1", out=two)
check("one job gives the same bits", code == 0 and same() and text(one, "layers.csv") == text(two, "layers.csv"), error)
lines = text(two, "metrics.csv").splitlines(keepends=True)
with open(os.path.join(two, "metrics.csv"), "w", encoding="utf-8") as stream:
    stream.writelines(lines[:len(lines) // 2])
os.remove(os.path.join(two, "summary.json"))
code, out_two, error = call("--resume", "--no-memory", out=two)
check("a resumed run ends with the same", code == 0 and same() and text(one, "layers.csv") == text(two, "layers.csv"), error)


def bad(code, needle, **options):
    target = os.path.join(WORK, f"bad{len(os.listdir(WORK))}")
    got, said, error = call("--no-memory", out=target, **options)
    check(f"{options!r}: {code}, {needle!r}", got == code and needle in error and not said and
          1 <= len(error.strip().splitlines()) <= 3 and not os.path.exists(target), (got, error))


bad(2, "kept in 4 bits", projector="galore:rank=4")
bad(2, "pissa", projector="lora:rank=4,init=pissa")
bad(2, "kept in 4 bits", optimizer="adam:moments=weight")
bad(2, "kept in 4 bits", target="embed|_proj")
bad(2, "matches no matrix", target="query")
bad(2, "has a place", projector="lora@q_proj")
bad(2, "no projector", projector="lorra")
bad(3, "old.txt", data=WORK)
end()
