"""allocation as a user calls it: what is known of a small problem, equal bits, resuming, and bad input. Standard library only.

    python3 tests/programs/allocation_test.py BUILD/bin
"""
import csv
import os
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-allocation-")


def call(*arguments):
    done = subprocess.run([os.path.join(BIN, "allocation"), *arguments], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def rows(folder, name):
    with open(os.path.join(folder, name), newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def text(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as stream:
        return stream.read()


# Three layers without noise, one of which has to change by rank 2: nothing can hide it.
SMALL = ["--task", "parallel:matrices=3,needy=1,planted=2,rows=12,cols=9,noise=0", "--rank", "3", "--budget", "3", "--steps", "300",
         "--eval-every", "30", "--lr", "0.02", "--seeds", "3", "--quiet"]

one, two = (os.path.join(WORK, name) for name in ("one", "two"))
code, out, error = call(*SMALL, "--jobs", "1", "--out", one)
check("a small run ends with 0", code == 0, error)
check("its folder is whole", all(os.path.exists(os.path.join(one, name)) for name in (
    "run.json", "metadata.json", "metrics.csv", "layers.csv", "table.csv", "summary.json")), os.listdir(one))
table = rows(one, "table.csv")
means = {(row["figure"], row["method"]): float(row["value"]) for row in table if row["seed"] == "all"}
verdicts = {row["figure"]: row["verdict"] for row in table if row["verdict"]}
ada = "adalora:rank=3,budget=3,gamma=0.1"
check("the needy layer gets at least its two triplets", means[("share of the needy", ada)] >= 2 / 3 - 1e-9, means)
check("the final budget is spent to the last triplet", means[("triplets", ada)] == 3, means)
check("lora of rank 1 stays below its optimum, 0.8", means[("R²", "lora:rank=1")] <= 0.8 + 1e-3, means)
check("adalora passes it", means[("R²", ada)] > 0.9, means)
check("every claim has a verdict", set(verdicts) == {"finds", "beats", "revives", "penalty"}, verdicts)
layers = rows(one, "layers.csv")
check("layers.csv has the contract's header", text(one, "layers.csv").startswith("method,optimizer,lr,seed,step,parameter,key,value\n"))
ranks = {}
for row in layers:
    if row["key"] == "rank" and row["method"] == ada:
        ranks.setdefault((row["seed"], int(row["step"])), []).append(float(row["value"]))
totals = [sum(ranks[key]) for key in sorted(ranks) if key[0] == "1"]
check("the ranks of all matrices fall from 9 to 3 and never rise", totals[0] == 9 and totals[-1] == 3 and totals == sorted(totals)[::-1],
      totals)

code, out_two, error = call(*SMALL, "--jobs", "3", "--out", two)
check("three jobs give the same bits", code == 0 and out_two == out and text(one, "layers.csv") == text(two, "layers.csv") and
      text(one, "table.csv") == text(two, "table.csv"), error)
lines = text(two, "metrics.csv").splitlines(keepends=True)
with open(os.path.join(two, "metrics.csv"), "w", encoding="utf-8") as stream:
    stream.writelines(lines[:len(lines) // 2])
os.remove(os.path.join(two, "summary.json"))
code, out_two, error = call(*SMALL, "--resume", "--out", two)
check("a resumed run ends with the same", code == 0 and out_two == out and text(one, "layers.csv") == text(two, "layers.csv"), error)


def bad(code, needle, *flags):
    target = os.path.join(WORK, f"bad{len(os.listdir(WORK))}")
    got, said, error = call(*flags, "--out", target)
    check(f"{' '.join(flags)!r}: {code}, {needle!r}", got == code and needle in error and not said and
          1 <= len(error.strip().splitlines()) <= 3 and not os.path.exists(target), (got, error))


bad(2, "nothing to prune", "--budget", "36")
bad(2, "parallel only", "--task", "teacher")
bad(2, "at most matrices", "--task", "parallel:needy=7")
bad(2, "did you mean", "--task", "parallel:neady=2")
bad(2, "--eval-every", "--steps", "5", "--eval-every", "6")
bad(2, "--lr", "--lr", "0")
bad(2, "no optimizer", "--optimizer", "adamm")
end()
