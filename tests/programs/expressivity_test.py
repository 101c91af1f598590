"""expressivity as a user calls it: closed forms, exact null spaces, verdicts that follow from the numbers, bad input.

    python3 tests/programs/expressivity_test.py BUILD/bin
"""
import csv
import json
import os
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-expressivity-")
SMALL = ["--rows", "16", "--cols", "12", "--seeds", "5", "--restarts", "2", "--iterations", "200", "--budgets", "1", "2", "4"]
TEACHER = ["--task", "teacher:rows=12,cols=9,planted=2", "--matrices", ".", "--steps", "300", "--lr", "0.02"]


def call(*flags):
    return subprocess.run([os.path.join(BIN, "expressivity"), *flags], capture_output=True, text=True, timeout=120, cwd=WORK)


def rows(folder, file):
    with open(os.path.join(WORK, folder, file), newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def results():
    done = call(*SMALL, *TEACHER, "--out", "main")
    check("a small run ends with 0", done.returncode == 0, done.stderr)
    table = rows("main", "table.csv")
    captured = {(r["target"], r["norm"], r["method"], r["budget"], r["seed"]): float(r["captured"]) for r in table}
    numbers = {r["method"]: int(r["numbers"]) for r in table if r["budget"] == "4" and r["target"] == "flat"}
    check("no method trains more than the budget", max(numbers.values()) <= 4 * 28, numbers)
    check("additive is where its closed form is", all(abs(float(r["captured"]) - float(r["closed_form"])) < 1e-9
                                                      for r in table if r["closed_form"]))
    check("a bias-like change is additive's", all(captured["bias-like", "plain", "additive", "1", s] > 1 - 1e-12 for s in "12345"))
    for rank, target in (("1", "rank-1"), ("4", "rank-4")):
        check(f"lora of rank {rank} has all of {target}", all(captured[target, "plain", "lora", rank, s] > 1 - 1e-12 for s in "12345"))
    flat = [captured["flat", "plain", "lora", "4", s] for s in "12345"]
    check("lora has a third of twelve equal singular values at rank 4", all(abs(x - 4 / 12) < 1e-9 for x in flat), flat)
    trained = [captured["w.weight", "plain", "lora", "2", s] for s in "12345"]
    check("the trained change of a teacher of rank 2 is nearly of rank 2", min(trained) > 0.9, trained)
    check("the norms differ where inputs are not white", any(
        abs(captured["w.weight", "plain", "lora", "1", s] - captured["w.weight", "activations", "lora", "1", s]) > 1e-6 for s in "12345"))
    check("captured energy is a share", all(-1e-9 <= float(r["least"]) <= float(r["captured"]) + 1e-12 <= 1 + 1e-9 for r in table))

    nulls = rows("main", "nulls.csv")
    check("the null spaces are as predicted", nulls and all(r["verdict"] == "holds" for r in nulls), nulls)
    dead = {(r["weight"], r["inputs"], r["method"], r["factor"]): r["dead"] for r in nulls}
    check("additive loses v before a softmax", dead["logits", "hidden units", "additive", "v"] == "1")
    check("additive loses u behind inputs that sum to zero", dead["hidden layer", "sum to zero", "additive", "u"] == "1")
    check("and nowhere else", dead["hidden layer", "uniform in (0, 1)", "additive", "u"] == "0")

    claims = rows("main", "claims.csv")
    h4 = {r["target"]: r["verdict"] for r in claims if r["hypothesis"] == "H4" and r["norm"] == "plain"}
    check("H4 holds for a bias-like change and fails for one of rank 1", (h4["bias-like"], h4["rank-1"]) == ("holds", "does not"), h4)
    check("every verdict fits its interval", all(
        r["verdict"] == "undecided" or (float(r["difference"]) >= -1e-7) == (r["verdict"] == "holds") or
        r["hypothesis"] == "H12" and abs(float(r["difference"])) < 1e-7 for r in claims))
    check("the claims are on stdout", all(word in done.stdout for word in ("H4", "H6", "closed form", "directions of a factor")))
    with open(os.path.join(WORK, "main", "summary.json"), encoding="utf-8") as file:
        check("the summary is complete", json.load(file)["status"] == "complete")
    again = call(*SMALL, *TEACHER, "--out", "again", "--jobs", "1", "--quiet")
    check("the same bits with one job", again.returncode == 0 and rows("again", "table.csv") == table, again.stderr)


def refused():
    def bad(code, needle, *flags):
        done = call(*flags, "--out", "bad")
        lines = done.stderr.strip().splitlines()
        check(f"{' '.join(flags)!r}: {code}, {needle!r}", done.returncode == code and needle in done.stderr and
              1 <= len(lines) <= 3 and not os.path.exists(os.path.join(WORK, "bad")) and not done.stdout, (done.returncode, done.stderr))

    bad(2, "moves its subspace", "--projector", "random")
    bad(2, "trains no number", "--projector", "bitfit")
    bad(2, "did you mean 'lora'", "--projector", "lorra")
    bad(2, "twice", "--projector", "lora", "lora")
    bad(2, "--budgets", "--budgets", "0")
    bad(2, "--budgets", "--budgets", "2", "2")
    bad(2, "so few numbers", "--task", "none", "--projector", "full", "--budgets", "1", "--seeds", "1")
    bad(2, "matches no matrix", *TEACHER[:2], "--matrices", "query", "--seeds", "1", "--quiet")
    bad(2, "regular expression", "--matrices", "(")
    bad(2, "nothing to resume", "--resume")
    bad(3, "no such folder", *SMALL, "--data", "/nowhere")


for part in (results, refused):
    part()
end()
