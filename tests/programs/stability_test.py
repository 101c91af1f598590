"""stability as a user calls it: exponents that hardly vary, verdicts, equal bits, bad input. Standard library only.

    python3 tests/programs/stability_test.py BUILD/bin
"""
import csv
import json
import os
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-stability-")


def call(*flags):
    return subprocess.run([os.path.join(BIN, "stability"), *flags], capture_output=True, text=True, timeout=300,
                          cwd=WORK)


def rows(*path):
    with open(os.path.join(WORK, *path), newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


BRIEF = ["--seeds", "2", "--draws", "2", "--steps", "3", "--quiet"]
done = call(*BRIEF, "--out", "one", "--jobs", "1")
check("a brief run ends well", done.returncode == 0, done.stderr)
table = rows("one", "table.csv")
check("every case has its three exponents", len(table) == 28 * 3, len(table))
points = rows("one", "points.csv")
check("every exponent has its points", len(points) == len(table) * 4 * 2, len(points))


def exponent(**wanted):
    found = [row for row in table if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, wanted
    return float(found[0]["exponent"])


# Where Adam has moved every entry by the same amount, only the sums |x|_1 and |delta|_1 vary: by a few
# percent, over three doublings an exponent of a few hundredths.
late = {"start": "zero", "optimizer": "adam", "phase": "few large steps"}
for scaling, growth in (("standard", 0), ("rslora", 1)):
    for direction, n in (("output", 2), ("input gradient", 0)):
        here = {**late, "scaling": scaling, "direction": direction}
        check(f"{scaling}, {direction}: r^{growth}", abs(exponent(**here, dimension="r") - growth) < 0.15)
        check(f"{scaling}, {direction}: n^{n}", abs(exponent(**here, dimension="n") - n) < 0.25)
# The two scalings differ by exactly r^(1/2) in s, so by r^2 in E y^2 under SGD and by r under Adam.
for optimizer, gap in (("sgd", 2), ("adam", 1)):
    both = [exponent(start="zero", scaling=scaling, optimizer=optimizer, phase="first step", direction="output",
                     dimension="r") for scaling in ("rslora", "standard")]
    check(f"the scalings are r^{gap} apart under {optimizer}", abs(both[0] - both[1] - gap) < 1e-6, both)
with open(os.path.join(WORK, "one", "summary.json"), encoding="utf-8") as file:
    claims = json.load(file)["claims"]
check("every claim has a verdict and evidence",
      claims and all(c["verdict"] in ("holds", "does not", "undecided") and c["evidence"] for c in claims))
check("and is printed", all(c["claim"] in done.stdout for c in claims))

call(*BRIEF, "--out", "two", "--jobs", "3")
check("any number of jobs gives the same bits", rows("two", "points.csv") == points)
for flags, word in ((["--seeds", "1"], "--seeds"), (["--steps", "1"], "--steps"), (["--margin", "0"], "--margin"),
                    (["--alfa", "2"], "did you mean 'alpha'"), (["--resume", "--out", "one"], "--resume")):
    bad = call(*flags, *([] if "--out" in flags else ["--out", "bad"]))
    check("refused: " + " ".join(flags), bad.returncode == 2 and word in bad.stderr, (bad.returncode, bad.stderr))
end()
