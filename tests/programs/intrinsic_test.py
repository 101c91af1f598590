"""intrinsic as a user calls it: crossings where they are known, the same bits for any number of jobs, bad input.

    python3 tests/programs/intrinsic_test.py BUILD/bin
"""
import csv
import os
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-intrinsic-")
# On a teacher of rank 1 a frozen right frame of r rows can follow the share r/n of the change, LoRA of rank 1 all of it.
TEACHER = ["--task", "teacher:rows=12,cols=8,planted=1", "--steps", "200", "--batch-size", "32", "--seeds", "4", "--lr", "0.02,0.1"]
RIGHT = "random:family=haar,refresh_every=0,sides=right"
SWEEP = [*TEACHER, "--ranks", "1", "4", "8", "--projector", RIGHT, "lora"]


def call(*flags):
    return subprocess.run([os.path.join(BIN, "intrinsic"), *flags], capture_output=True, text=True, timeout=120, cwd=WORK)


def rows(folder, file):
    with open(os.path.join(WORK, folder, file), newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def results():
    done = call(*SWEEP, "--out", "main")
    check("a small run ends with 0", done.returncode == 0, done.stderr)
    table = rows("main", "table.csv")
    every = {(r["method"], r["rank"]): r for r in table if r["seed"] == "all"}
    check("directions are numbers trained", [every[RIGHT, r]["directions"] for r in ("1", "4", "8")] == ["12", "48", "96"])
    check("full has all parameters", {r["directions"] for r in table if r["method"] == "full"} == {"96"})
    check("the whole frame does what full does", abs(float(every[RIGHT, "8"]["accuracy_ratio"]) - 1) < 0.02, every[RIGHT, "8"])
    check("an eighth of it does not", float(every[RIGHT, "1"]["accuracy_ratio"]) < 0.9, every[RIGHT, "1"])
    found = {(r["method"], r["measure"]): r for r in rows("main", "crossings.csv")}
    check("frozen frames cross between", 12 < float(found[RIGHT, "accuracy"]["directions"]) <= 96, found[RIGHT, "accuracy"])
    check("lora is there at rank 1", found["lora", "accuracy"]["safe_rank"] == "1" and
          found["lora", "accuracy"]["seeds_at_first_rank"] == "4", found["lora", "accuracy"])
    check("a start of accuracy 0 makes the two measures one", all(
        abs(float(r["accuracy_ratio"]) - float(r["gain_ratio"])) < 1e-4 for r in every.values()))
    check("a large share is not low", found[RIGHT, "accuracy"]["verdict"] == "does not", found[RIGHT, "accuracy"])
    check("tuning seeds are not reported", {r["seed"] for r in table} == {"all", "1", "2", "3", "4"})
    again = call(*SWEEP, "--out", "again", "--jobs", "1", "--quiet")
    check("the same bits with one job", again.returncode == 0 and rows("again", "table.csv") == table, again.stderr)
    missed = call(*TEACHER, "--ranks", "1", "--projector", RIGHT, "--out", "missed", "--quiet")
    check("what is never reached is said", "not reached with 12 by 4 of 4 seeds" in missed.stdout, missed.stdout + missed.stderr)


def refused():
    def bad(code, needle, *flags):
        done = call(*flags, "--out", "bad")
        lines = done.stderr.strip().splitlines()
        check(f"{' '.join(flags)[-60:]!r}: {code}, {needle!r}", done.returncode == code and needle in done.stderr and
              1 <= len(lines) <= 3 and not os.path.exists(os.path.join(WORK, "bad")) and not done.stdout, (done.returncode, done.stderr))

    bad(2, "ranks are given with --ranks", "--projector", "lora:rank=2")
    bad(2, "no rank to sweep", "--projector", "full")
    bad(2, "no projector", "--projector", "lorra")
    bad(2, "--ranks", "--ranks", "0")
    bad(2, "--part", "--part", "101")
    bad(2, "warm-up", "--schedule", "cosine:warmup=400")
    bad(3, "no such folder", "--data", "/nowhere")


for part in (results, refused):
    part()
end()
