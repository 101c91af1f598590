"""bench_ratios, scripts/bench and their report as a user calls them: rows with their fields, a file that is replaced, names that
are refused, what was reached and what was lost. Standard library only.

    python3 tests/programs/bench_test.py BUILD/bin
"""
import json
import math
import os
import subprocess
import sys
import tempfile

from harness import BIN, check, end

SOURCE = os.environ.get("GRADVIEW_SOURCE", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
WORK = tempfile.mkdtemp(prefix="gradview-bench-")
OUT = os.path.join(WORK, "results.json")
FIELDS = ["name", "ratio", "median", "low", "high", "unit", "note"]


def call(*arguments):
    done = subprocess.run([os.path.join(BIN, "bench_ratios"), *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def rows():
    with open(OUT, encoding="utf-8") as file:
        return json.load(file)


code, printed, error = call("--list")
names = printed.split()
check("--list names the rows, none twice", code == 0 and "project_4096_r1" in names and len(set(names)) == len(names), error)

with open(OUT, "w", encoding="utf-8") as file:
    file.write("what was there before, and longer than a row")
code, printed, error = call("--quick", "--only", "lazy_768_T512_r4", "random_sgd_768_r1", "--out", OUT)
check("two rows are measured", code == 0, error)
found = rows()
check("the file is replaced by the rows asked for, in their order",
      [row["name"] for row in found] == ["lazy_768_T512_r4", "random_sgd_768_r1"], str(found))
check("every row has the fields, in order", all(list(row) == FIELDS for row in found), str(found))
check("figures are positive and inside their intervals",
      all(0 < row["low"] <= row["ratio"] <= row["high"] < math.inf and row["ratio"] == row["median"] for row in found), str(found))
check("every row is in the table that is printed", all(row["name"] in printed for row in found), printed)
check("the note says threads and instruction set", all("2 threads, " in row["note"] for row in found), str(found))

code, _, error = call("--quick", "--only", "random_sgd_768_r1", "--threads", "1", "--out", OUT)
check("another run leaves its own rows only", code == 0 and [row["name"] for row in rows()] == ["random_sgd_768_r1"], error)
check("one thread is one thread", "1 thread, " in rows()[0]["note"], str(rows()))

before = rows()
code, _, error = call("--only", "random_sgd_768", "--out", OUT)
check("a name that is none is refused with the choices",
      code == 2 and "no row 'random_sgd_768'" in error and "project_4096_r1" in error and error.count("\n") <= 3, error)
check("and nothing is written", rows() == before)
code, _, error = call("--only", "random_sgd_768_r1", "--quick", "--out", "/nonexistent/folder/results.json")
check("a place that cannot be written to is said", code == 5, error)
code, _, error = call("--threads", "0")
check("no threads are refused", code == 2, error)

for arguments, expected, words in [(["--quik"], 2, "--quick"), (["--only"], 2, "name"), (["--threads", "two"], 2, "'two'"),
                                   (["--out", "/nonexistent/folder/results.json"], 5, "cannot be written")]:
    done = subprocess.run([os.path.join(SOURCE, "scripts", "bench"), *arguments], capture_output=True, text=True, timeout=60)
    check("scripts/bench refuses " + " ".join(arguments), done.returncode == expected and words in done.stderr, done.stderr)


def report(*arguments):
    done = subprocess.run([sys.executable, os.path.join(SOURCE, "benchmarks", "report.py"), *arguments], capture_output=True, text=True,
                          timeout=60)
    check("report.py " + arguments[0], done.returncode == 0, done.stderr)
    return done.stdout


def row(name, ratio, unit="times", note="as made up here"):
    return {"name": name, "ratio": ratio, "median": ratio, "low": 0.9 * ratio, "high": 1.1 * ratio, "unit": unit, "note": note}


parts = [[row("limit_read_2_threads", 40, "GB/s"), row("project_4096_r1", 7), row("update_4096_r1", 3.5), row("update_4096_r4", 0.8),
          row("growth_r", 1.05, "exponent", "counting predicts 1.00; made up"), row("growth_T", 0.5, "exponent", "counting predicts 0.72")],
         [row("adam_4096_torch", 0.9, note="made up; torch 2.13.0+cpu, peft 0.21.2, transformers 5.0, 2 threads")]]
for i, part in enumerate(parts):
    with open(os.path.join(WORK, f"part{i}.json"), "w", encoding="utf-8") as file:
        json.dump(part, file)
report("--merge", OUT, os.path.join(WORK, "part0.json"), os.path.join(WORK, "part1.json"))
check("merging keeps every row in order", rows() == parts[0] + parts[1], str(rows()))
DOCS = os.path.join(WORK, "performance.md")
report("--results", OUT, "--machine", '{"instruction set": "made up"}', "--docs", DOCS)
with open(DOCS, encoding="utf-8") as file:
    text = file.read()
table = {line.split("`")[1]: line.split("|")[-2].strip() for line in text.splitlines() if line.startswith("| `")}
lost = text.split("## What we lose")[1].split("## ")[0]
check("a goal that is reached is said to be", table.get("project_4096_r1") == "reached", str(table))
check("between gate and goal", table.get("update_4096_r1") == "gate held, goal missed", str(table))
check("below the gate", table.get("update_4096_r4") == "gate missed", str(table))
check("exponents are held against what counting predicts", (table.get("growth_r"), table.get("growth_T")) == ("reached", "missed"), str(table))
check("what is lost is listed, and nothing else",
      all((f"`{name}`" in lost) == (name not in ("project_4096_r1", "growth_r", "limit_read_2_threads"))
          for name in [one["name"] for one in parts[0] + parts[1]]), lost)
check("being slower is said", lost.count("we are slower") == 2, lost)
check("machine, limits and peers are there", all(words in text for words in ("made up", "| read, threads: 2 |", "torch 2.13.0+cpu, peft")), text)
end()
