"""moments as a user calls it: refusals where theory says so, equal bits, tables, and bad input. Standard library only.

    python3 tests/programs/moments_test.py BUILD/bin
"""
import csv
import json
import math
import os
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-moments-")


def call(*flags):
    return subprocess.run([os.path.join(BIN, "moments"), *flags], capture_output=True, text=True, timeout=300, cwd=WORK)


def rows(*path):
    with open(os.path.join(WORK, *path), newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


TINY = ["--task", "quadratic", "--quadratic", "quadratic:rows=8,cols=8,condition=10", "--frames", "gaussian", "--rank",
        "2", "--refresh-every", "1", "10", "--steps", "60", "--seeds", "2", "--tune-seeds", "1", "--samples", "400"]
done = call(*TINY, "--out", "one", "--jobs", "1")
check("a tiny run ends well", done.returncode == 0, done.stderr)
table = rows("one", "table.csv")
check("every cell is in the table", len(table) == 2 + 2 * 8, len(table))

# (n + r + 1)/r = 5.5 and beta1 = 0.9: stable above ln 5.5 / (2 ln(1/0.9)) = 8.09 steps.
project = {row["refresh_every"]: row for row in table if row["transport"] == "project"}
check("transport=project is refused at every step", project["1"]["status"] == "refused", project["1"])
check("and trained above its threshold", project["10"]["status"] == "ok", project["10"])
bound = math.log(5.5) / (2 * math.log(1 / 0.9))
check("the threshold is the theory's", abs(float(project["1"]["stable_above"]) - bound) < 1e-9, project["1"])
check("the table printed says so", "refused (κ>8.1)" in done.stdout)
trained = [row for row in table if row["status"] == "ok"]
check("everything else is trained", len(trained) == len(table) - 1)
start = 4 * 8 * 2  # about: half the energy of W*
check("and learns", all(float(row["loss"]) < start for row in trained), [row["loss"] for row in trained])
theory = rows("one", "theory.csv")
check("the theory of moving coordinates holds", theory and all(row["verdict"] == "ok" for row in theory), theory)
with open(os.path.join(WORK, "one", "summary.json"), encoding="utf-8") as file:
    summary = json.load(file)
claims = summary["quadratic"]["claims"]
check("every claim has a verdict", claims and all(c["verdict"] in ("holds", "does not", "undecided") for c in claims))
check("no order is compared with that of other settings", summary["quadratic"]["earlier"] == [])
metrics = rows("one", "quadratic", "metrics.csv")
reported = {row["seed"] for row in metrics if row["split"] == "test"}
check("reported seeds are not tuned on",
      reported == {"1", "2"} and {row["seed"] for row in metrics} == reported | {"1001"})

again = call(*TINY, "--out", "two", "--jobs", "3", "--quiet")
check("any number of jobs gives the same table", rows("two", "table.csv") == table and again.returncode == 0)

for flags, word in ((["--frames", "haarr"], "did you mean 'haar'"), (["--rank", "0"], "--rank"),
                    (["--refresh-every", "0"], "--refresh-every"), (["--rank", "4", "4"], "different numbers"),
                    (["--task", "mnist"], "there are quadratic, fashion"), (["--margin", "1"], "--margin"),
                    (["--resume", "--out", "one"], "--resume"), (["--quadratic", "quadratic:noise=-1"], "noise")):
    bad = call(*flags, *([] if "--out" in flags else ["--out", "bad"]))
    check("refused: " + " ".join(flags),
          bad.returncode == 2 and word in bad.stderr and bad.stderr.count("\n") <= 3, (bad.returncode, bad.stderr))
check("and leaves no folder", not os.path.exists(os.path.join(WORK, "bad")))
end()
