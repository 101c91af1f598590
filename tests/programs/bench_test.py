"""bench_ratios as a user calls it: rows with their fields, a file that is replaced, names that are refused. Standard library only.

    python3 tests/programs/bench_test.py BUILD/bin
"""
import json
import math
import os
import subprocess
import tempfile

from harness import BIN, check, end

OUT = os.path.join(tempfile.mkdtemp(prefix="gradview-bench-"), "results.json")
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
end()
