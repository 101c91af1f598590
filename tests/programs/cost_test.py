"""cost as a user calls it: counts that add up, exchanges by their formulas, shares of one whole, bad input.

    python3 tests/programs/cost_test.py BUILD/bin
"""
import csv
import json
import os
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-cost-")
D, H, R, N, BLOCKS, REAL = 24, 40, 3, 16, 2, 4
SMALL = ["--width", str(D), "--hidden", str(H), "--rank", str(R), "--tokens", str(N), "--blocks", str(BLOCKS), "--repeats", "7"]
SHAPES = [(D, D)] * 4 + [(H, D), (D, H)]  # of one block
PARTS = ["forward", "delta", "weight_gradient", "project", "rule", "update"]


def call(*flags):
    return subprocess.run([os.path.join(BIN, "cost"), *flags], capture_output=True, text=True, timeout=60, cwd=WORK)


def rows(folder, file):
    with open(os.path.join(WORK, folder, file), newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def results():
    done = call(*SMALL, "--out", "main")
    check("a small run ends with 0", done.returncode == 0, done.stderr)
    table = {(r["scenario"], r["method"], r["part"]): r for r in rows("main", "table.csv")}
    scenarios = list(dict.fromkeys(key[0] for key in table))
    methods = list(dict.fromkeys(key[1] for key in table))
    check("three scenarios", scenarios == ["all layers", "last 6", "q and v"], scenarios)

    def figure(scenario, method, part, column="flops"):
        return float(table[scenario, method, part][column])

    check("parts add up to the step", all(
        abs(sum(figure(s, m, p, column) for p in PARTS) - figure(s, m, "step", column)) <= 1e-9 * figure(s, m, "step", column)
        for s in scenarios for m in methods for column in ("flops", "bytes")))
    entries = BLOCKS * sum(m * n for m, n in SHAPES)
    check("forward is 2 N m n", all(figure(s, m, "forward") == 2 * N * entries for s in scenarios for m in methods))
    check("forming G is 2 N m n, and lora does without", figure("all layers", "full", "weight_gradient") == 2 * N * entries ==
          figure("all layers", "lora, formed", "weight_gradient") and figure("all layers", "lora", "weight_gradient") == 0)
    check("so it takes no time either", figure("all layers", "lora", "weight_gradient", "high_seconds") == 0 <
          figure("all layers", "lora, formed", "weight_gradient", "low_seconds"))
    sides = BLOCKS * sum(m + n for m, n in SHAPES)
    sent = {"full": entries, "full, sgd": entries, "lora": R * sides, "lora, formed": R * sides, "random, sgd": R * sides,
            "additive": R * sides, "loha": 2 * R * sides, "galore": BLOCKS * R * sum(max(shape) for shape in SHAPES)}
    for method, numbers in sent.items():
        check(f"{method} sends its trained numbers", figure("all layers", method, "exchange", "bytes") == REAL * numbers,
              table["all layers", method, "exchange"])
    check("a choice of GaLore's subspace needs all of G", figure("all layers", "galore", "refresh_exchange", "bytes") == REAL * entries and
          figure("all layers", "galore", "refresh", "median_seconds") > 0)
    check("adam keeps two averages of what is trained", figure("all layers", "lora", "state", "bytes") == REAL * 2 * R * sides and
          figure("all layers", "full", "state", "bytes") == REAL * 2 * entries and figure("all layers", "full, sgd", "state", "bytes") == 0)
    check("fewer layers save δ only where it need not reach as far", figure("last 6", "lora", "delta") < figure("q and v", "lora", "delta") ==
          figure("all layers", "lora", "delta"))
    reasons = {(r["scenario"], r["reason"]): r for r in rows("main", "reasons.csv")}
    full, lora = (figure("all layers", m, "exchange", "bytes") for m in ("full", "lora"))
    ring = 2 * 7 / 8 * (full - lora) * 8 / 10e9
    check("communication is that of a ring", abs(float(reasons["all layers", "communication"]["saved_seconds"]) / ring - 1) < 1e-9)
    check("fewer matrices save nothing where all are trained", float(reasons["all layers", "fewer matrices"]["saved_high_seconds"]) == 0)
    summary = json.load(open(os.path.join(WORK, "main", "summary.json"), encoding="utf-8"))
    words = {claim["claim"]: claim for claim in summary["claims"]}
    check("verdicts follow their intervals", len(words) == 6 and all(
        claim["verdict"] == ("holds" if claim["time_ratio"]["low"] > 1 else "does not" if claim["time_ratio"]["high"] < 1 else "undecided")
        for claim in words.values()), words)
    check("and are printed", all(claim["claim"] in done.stdout and claim["verdict"] in done.stdout for claim in words.values()))
    more = sum(figure("all layers", "lora, formed", p) for p in PARTS) / sum(figure("all layers", "lora", p) for p in PARTS)
    check("what is counted is the ratio of the operations", abs(
        words["leaving G as δᵀx saves time of its own"]["operations_ratio"] / more - 1) < 1e-9 and more > 1)
    again = call(*SMALL, "--out", "again", "--threads", "1", "--quiet")
    alike = [{k: v for k, v in r.items() if not k.endswith("_seconds")} for r in rows("again", "table.csv")]
    check("equal runs differ in seconds only", again.returncode == 0 and again.stderr == "" and alike == [
        {k: v for k, v in r.items() if not k.endswith("_seconds")} for r in rows("main", "table.csv")], again.stderr)


def refused():
    def bad(code, needle, *flags):
        done = call(*SMALL, *flags, "--out", "bad")
        lines = done.stderr.strip().splitlines()
        check(f"{' '.join(flags)!r}: {code}, {needle!r}", done.returncode == code and needle in done.stderr and
              1 <= len(lines) <= 3 and not os.path.exists(os.path.join(WORK, "bad")) and not done.stdout, (done.returncode, done.stderr))

    bad(2, "this build has float", "--compute", "fp8")
    bad(2, "12 layers", "--last", "13")
    bad(2, "--last", "--last", "0")
    bad(2, "fewer than --refresh-every", "--refresh-every", "7")
    bad(2, "--bandwidth", "--bandwidth", "0")
    bad(2, "--workers", "--workers", "1")
    bad(2, "nothing to resume", "--resume")
    there = call(*SMALL, "--out", "main")
    check("a folder that is there is refused with 5", there.returncode == 5, there.stderr)


for part in (results, refused):
    part()
end()
