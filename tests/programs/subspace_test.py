"""subspace as a user calls it, on the linear teacher: what is known there, equal bits, and bad input. Standard library only.

    python3 tests/programs/subspace_test.py BUILD/bin
"""
import csv
import os
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-subspace-")


def call(*arguments):
    done = subprocess.run([os.path.join(BIN, "subspace"), "--quiet", *arguments], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


SMALL = ["--task", "teacher:planted=2,rows=12,cols=10", "--steps", "120", "--eval-every", "60", "--lr", "0.03", "--seeds", "2", "--directions", "2"]
METHODS = ["--projector", "full", "lora:rank=2", "lora:rank=6", "--low", "lora:rank=2", "--high", "lora:rank=6"]


def rows(folder, name):
    with open(os.path.join(folder, name)) as stream:
        return list(csv.DictReader(stream))


folders = [os.path.join(WORK, name) for name in ("one", "two")]
for folder, jobs in zip(folders, ("1", "2")):
    code, out, error = call(*SMALL, *METHODS, "--jobs", jobs, "--out", folder)
    check(f"runs with {jobs} jobs", code == 0, error)
files = [open(os.path.join(f, "layers.csv")).read() for f in folders]
check("layers.csv has the same bits for any number of jobs", files[0] == files[1])
table = rows(folders[0], "table.csv")


def mean(figure, method, other=None):
    found = [r for r in table if (r["figure"], r["method"], r["seed"]) == (figure, method, "all") and other in (None, r["other"])]
    return float(found[0]["value"])


layers = rows(folders[0], "layers.csv")
gains = [float(r["value"]) for r in layers if r["method"] == "full" and r["key"] in ("gain", "cosine") and r["value"] != "nan"]
check("full has gain and cosine 1", gains and all(abs(g - 1) < 1e-4 for g in gains), gains[:3])
ranks = [float(r["value"]) for r in layers if r["method"] == "lora:rank=2" and r["key"] == "energy_rank_90"]
check("LoRA of rank 2 changes W along at most two directions", ranks and max(ranks) <= 2, ranks)
check("the change that the teacher asks for has rank 2, and both runs find it",
      mean("share of full", "lora:rank=2") > 0.8 and mean("φ", "full", "full") > 0.8,
      (mean("share of full", "lora:rank=2"), mean("φ", "full", "full")))
grid = rows(folders[0], "similarity.csv")
check("similarities lie in [0, 1]", grid and all(0 <= float(r["similarity"]) <= 1 + 1e-6 for r in grid))
check("a verdict per claim", all(line.split()[0] in ("holds", "does", "undecided") for line in out.splitlines()[-4:]), out)
check("one pair of seeds decides nothing", "undecided  two seeds of lora:rank=2" in out, out)

for arguments, code, words in [(["--low", "lora:rank=3"], 2, "not among the projectors"), (["--eval-every", "0"], 2, "given twice"),
                               (["--resume", "--out", folders[0]], 2, "--resume"), (["--out", folders[0]], 5, "overwrite"),
                               (["--projector", "lorra"], 2, "lora")]:
    got, out, error = call(*SMALL, *arguments)
    check(f"{' '.join(arguments)[:40]} ends with {code}", got == code and words in error and not out and len(error.splitlines()) <= 3, (got, error))
for arguments, words in [(["--directions", "0"], "[1, "), (["--lr", "0"], "--lr"), (["--seeds", "0"], "[1, ")]:
    got, out, error = call(*arguments)
    check(f"{' '.join(arguments)} is refused", got == 2 and words in error and not out, (got, error))
end()
