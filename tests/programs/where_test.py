"""where as a user calls it: equal budgets, equal bits, resuming, and bad input. Standard library only.

    python3 tests/programs/where_test.py BUILD/bin
"""
import csv
import os
import random
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-where-")


def call(*arguments):
    done = subprocess.run([os.path.join(BIN, "where"), *arguments], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def text(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as stream:
        return stream.read()


# Texts in which a letter decides the next one: the old one goes up the alphabet, the new one down.
for name, step in (("old.txt", 1), ("new.txt", -1)):
    draw, letters, at = random.Random(step), [], 0
    for _ in range(20000):
        at = (at + step) % 26 if draw.random() < 0.9 else draw.randrange(26)
        letters.append(chr(97 + at))
    with open(os.path.join(WORK, name), "w", encoding="utf-8") as stream:
        stream.write("".join(letters))

QUICK = ["--quick", "--data", WORK, "--cache", os.path.join(WORK, "cache"), "--lr", "0.01", "--quiet"]
one, two = (os.path.join(WORK, name) for name in ("one", "two"))
code, out, error = call(*QUICK, "--jobs", "1", "--out", one)
check("a quick run ends with 0", code == 0, error)
check("its folder is whole", all(os.path.exists(os.path.join(one, name)) for name in (
    "run.json", "metadata.json", "metrics.csv", "table.csv", "summary.json")), os.listdir(one))
table = list(csv.DictReader(text(one, "table.csv").splitlines()))
rows = {(row["kind"], row["what"], row["rank"]): row for row in table if row["seed"] == "all"}
trained = {what: int(row["trained"]) for (kind, what, _), row in rows.items() if kind == "budget"}
check("q, v and q,v train the same number", trained["q"] == trained["v"] == trained["q,v"] == 4 * (32 + 32), trained)
check("q,v has half the rank", ("budget", "q,v", "2") in rows, list(rows))
check("three norms of 32 numbers", trained["norm"] == 96, trained)
check("rank 4 trains four times rank 1", int(rows["rank", "q,v", "4"]["trained"]) == 4 * int(rows["rank", "q,v", "1"]["trained"]))
check("every row has three seeds", all(sum(row["what"] == what and row["kind"] == "budget" and row["seed"] != "all" for row in table) == 3
                                       for what in trained))
check("differences have verdicts", all(row["verdict"] in ("better", "worse", "equivalent", "undecided")
                                       for row in table if row["kind"] == "difference") and "q,v r=2 − q r=4" in out, out)

code, again, error = call(*QUICK, "--jobs", "2", "--out", two)
check("two jobs give the same bits", code == 0 and again == out and text(one, "table.csv") == text(two, "table.csv"), error)
lines = text(two, "metrics.csv").splitlines(keepends=True)
with open(os.path.join(two, "metrics.csv"), "w", encoding="utf-8") as stream:
    stream.writelines(lines[:len(lines) // 2])
os.remove(os.path.join(two, "summary.json"))
code, again, error = call(*QUICK, "--resume", "--out", two)
check("a resumed run ends with the same", code == 0 and again == out and text(one, "table.csv") == text(two, "table.csv"), error)


def bad(code, needle, *flags):
    target = os.path.join(WORK, f"bad{len(os.listdir(WORK))}")
    got, said, error = call(*flags, "--out", target)
    check(f"{' '.join(flags)!r}: {code}, {needle!r}", got == code and needle in error and not said and
          1 <= len(error.strip().splitlines()) <= 3 and not os.path.exists(target), (got, error))


bad(2, "no part 'w'", *QUICK, "--place", "q,w")
bad(2, "mixes", *QUICK, "--place", "q", "q,norm")
bad(2, "alone", *QUICK, "--task", "bytes:arch=gpt2,layers=1,width=32,heads=2,length=32,pretrain_steps=2,windows=8")
bad(2, "--rank", *QUICK, "--rank", "0")
bad(3, "fetch-texts", "--quick", "--data", os.path.join(WORK, "cache"))
bad(2, "no task", *QUICK, "--task", "byte")
end()
