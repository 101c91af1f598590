"""compare and unbiased as a user calls them: results, resuming, equal bits, and bad input. Standard library only.

    python3 tests/programs/compare_test.py BUILD/bin
"""
import csv
import gzip
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time

BIN = os.path.abspath(sys.argv[1])
WORK = tempfile.mkdtemp(prefix="gradview-compare-")
failures = 0


def check(what, holds, detail=""):
    global failures
    failures += not holds
    print(("ok    " if holds else "FAILED") + "  " + what + ("" if holds else f"  {detail}"), flush=True)


def images(count, seed, label=lambda digit: digit):
    """Ten classes told apart by where their bright bar lies, with noise."""
    draw = random.Random(seed)
    pixels, labels = bytearray(), bytearray()
    for _ in range(count):
        digit = draw.randrange(10)
        labels.append(label(digit))
        for row in range(28):
            bright = 2 <= row - 2 * digit < 6
            pixels += bytes(min(255, draw.randrange(60) + (180 if bright and 4 < col < 20 else 0)) for col in range(28))
    return bytes(pixels), bytes(labels)


def idx(values, *shape):
    return struct.pack(">HBB", 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape) + values


def dataset(name, change=lambda files: None, label=lambda digit: digit):
    folder = os.path.join(WORK, name)
    os.makedirs(folder)
    files = {}
    for prefix, count, seed in (("train", 720, 1), ("t10k", 100, 2)):
        pixels, labels = images(count, seed, label)
        files[prefix + "-images-idx3-ubyte.gz"] = gzip.compress(idx(pixels, count, 28, 28), 1)
        files[prefix + "-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels, count), 1)
    change(files)
    for file, content in files.items():
        with open(os.path.join(folder, file), "wb") as out:
            out.write(content)
    return folder


DATA = dataset("data")
CACHE = os.path.join(WORK, "cache")
QUICK = ["--task", "fashion:pretrain_steps=60,pretrain_batch=32", "--steps", "24", "--seeds", "2", "--tune-seeds", "1",
         "--eval-every", "8"]
SMALL = [*QUICK, "--data", DATA, "--cache", CACHE, "--batch-size", "32"]
TEACHER = ["--task", "teacher:rows=12,cols=9,planted=2", "--steps", "20", "--batch-size", "8", "--seeds", "2"]


def call(program, *flags, timeout=120):
    return subprocess.run([os.path.join(BIN, program), *flags], capture_output=True, text=True, timeout=timeout, cwd=WORK)


def rows(folder, file="metrics.csv"):
    with open(os.path.join(folder, file), newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def without_seconds(table):
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in table]


def out(name):
    return os.path.join(WORK, name)


def results():
    done = call("compare", *SMALL, "--out", out("main"))
    check("a small run of the main job ends with 0", done.returncode == 0, done.stderr)
    table = rows(out("main"))
    check("metrics.csv has the columns of the contract first", list(table[0])[:16] == (
        "method,optimizer,lr,seed,step,split,loss,accuracy,grad_norm,update_norm,gain,cosine,state_bytes,"
        "train_seconds,wall_seconds,diverged").split(","))
    curves = {(row["method"], row["optimizer"]) for row in table}
    check("every method runs under both optimizers", len(curves) == 18, curves)
    reported = [row for row in table if row["seed"] in ("1", "2")]
    for split in ("train", "validation", "old"):
        steps = {row["step"] for row in reported if row["split"] == split}
        check(f"rows of {split} at the start and the end", {"0", "24"} <= steps, steps)
    tests = [row for row in table if row["split"] == "test"]
    check("test rows once per curve and reported seed, at the end",
          len(tests) == 36 and {row["step"] for row in tests} == {"24"} and {row["seed"] for row in tests} == {"1", "2"},
          len(tests))
    check("the table goes to stdout, the parameters to stderr",
          "verdict" in done.stdout and "fc1.weight" in done.stderr and "fc1.weight" not in done.stdout)
    check("the folder is whole", all(os.path.exists(os.path.join(out("main"), name)) for name in (
        "run.json", "metadata.json", "metrics.csv", "table.csv", "summary.json")), os.listdir(out("main")))
    full = [row for row in table if row["method"] == "full" and row["gain"]]
    check("full's gain and cosine are 1", all(abs(float(row["gain"]) - 1) < 1e-4 and abs(float(row["cosine"]) - 1) < 1e-4
                                               for row in full))
    start = {row["accuracy"] for row in reported if row["step"] == "0" and row["split"] == "old" and row["seed"] == "1"}
    check("all curves of a seed start from the same network", len(start) == 1, start)

    again = call("compare", *SMALL, "--out", out("again"), "--jobs", "1", "--threads", "3", "--quiet")
    check("the same bits with one job and three threads",
          without_seconds(rows(out("again"))) == without_seconds(table), again.stderr)
    check("--quiet says nothing but the folder", len(again.stderr.splitlines()) <= 2, again.stderr)
    config = call("compare", "--config", os.path.join(out("main"), "run.json"), "--out", out("config"), "--quiet")
    check("--config run.json repeats a run", config.returncode == 0 and
          without_seconds(rows(out("config"))) == without_seconds(table), config.stderr)
    reuse = call("compare", *SMALL, "--out", out("reuse"), "--best-from", out("main"), "--quiet")
    check("--best-from takes the rates of another run", reuse.returncode == 0 and
          {row["seed"] for row in rows(out("reuse"))} == {"1", "2"}, reuse.stderr)


def resuming():
    flags = [*SMALL, "--projector", "full", "lora:rank=4", "additive", "--quiet"]
    whole = call("compare", *flags, "--out", out("whole"))
    check("the run to interrupt", whole.returncode == 0, whole.stderr)
    process = subprocess.Popen([os.path.join(BIN, "compare"), *flags, "--out", out("cut")], cwd=WORK,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = os.path.join(out("cut"), "metrics.csv")
    deadline = time.time() + 60
    while time.time() < deadline and not (os.path.exists(metrics) and os.path.getsize(metrics) > 3000):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    check("Ctrl-C ends with 130 and says how far it got", process.returncode == 130 and "interrupted after" in said,
          (process.returncode, said))
    kept = rows(out("cut"))
    check("what is kept is valid, and no summary claims it complete",
          len(kept) > 0 and not os.path.exists(os.path.join(out("cut"), "summary.json")))
    with open(metrics, "a", encoding="utf-8") as file:
        file.write('full,sgd,0.1,1001,0,old,0.')  # torn, as by a power cut
    other = call("compare", *flags, "--out", out("cut"), "--resume", "--steps", "25")
    check("resuming with other flags is refused", other.returncode == 2 and "--steps" in other.stderr, other.stderr)
    resumed = call("compare", *flags, "--out", out("cut"), "--resume")
    check("--resume ends with what the whole call would have written", resumed.returncode == 0 and
          without_seconds(rows(out("cut"))) == without_seconds(rows(out("whole"))), resumed.stderr)


def trials():
    knob = "lora:rank=4,alpha=2|4|16"
    flags = [*SMALL, "--projector", "full", knob, "bitfit", "--optimizer", "adam", "--quiet"]
    fixed = [*flags, "--trials", "9"]
    done = call("compare", *fixed, "--group-by", "state", "--out", out("trials"))
    table = rows(out("trials"))
    curves = {"full": {"full"}, "lora": {f"lora:rank=4,alpha={value}" for value in (2, 4, 16)}, "bitfit": {"bitfit"}}
    tried = {name: {(row["method"], row["lr"]) for row in table if row["method"] in specs and row["seed"] == "1001"}
             for name, specs in curves.items()}
    check("--trials: exactly so many per curve", done.returncode == 0 and {len(pairs) for pairs in tried.values()} == {9},
          (done.stderr, tried))
    check("every value of a knob is tried, and written as a spec", {method for method, _ in tried["lora"]} == curves["lora"])
    lines = {row["method"]: row for row in rows(out("trials"), "table.csv") if row["seed"] == "all"}
    last = {(row["method"], row["lr"]): float(row["accuracy"]) for row in table
            if row["seed"] == "1001" and row["split"] == "validation" and row["step"] == "24"}
    best = {name: max(last.get(pair, 0) for pair in pairs) for name, pairs in tried.items()}
    chosen = {name: next(method for method in specs if method in lines) for name, specs in curves.items()}
    check("the table reports the best trial of each curve", len(lines) == 3 and
          all(last[method, lines[method]["lr"]] == best[name] for name, method in chosen.items()), lines)
    check("the printed table and summary.json name the chosen value", chosen["lora"] in done.stdout and knob not in done.stdout)
    expected = rows(out("trials"), "trials.csv")
    ends = {row["method"]: float(row["expected_best"]) for row in expected if row["k"] == "9"}
    check("trials.csv: one row per curve and k, which ends at the best", len(expected) == 27 and
          all(abs(ends[method] - best[name]) < 1e-12 for name, method in chosen.items()), expected)
    pictures = [os.path.exists(os.path.join(out("trials"), name)) for name in ("compare.png", "trials.png")]
    check("the expected best is drawn where pictures are", pictures[0] == pictures[1], pictures)
    groups = [lines[method]["state_group"] for method in sorted(lines, key=lambda method: int(lines[method]["state_bytes"]))]
    heads = [line.strip("— ").removeprefix("state ") for line in done.stdout.splitlines() if line.startswith("— state")]
    check("--group-by state: a heading per group, in order of bytes", groups[-1] == "100 % or more" and
          heads == 2 * list(dict.fromkeys(groups)), (groups, heads))

    again = call("compare", "--config", os.path.join(out("trials"), "run.json"), "--jobs", "1", "--quiet",
                 "--out", out("trials-again"))
    check("--config run.json repeats the trials, with one job too", without_seconds(rows(out("trials-again"))) == without_seconds(table), again.stderr)
    with open(os.path.join(out("trials"), "metrics.csv"), encoding="utf-8") as file:
        whole = file.read()
    with open(os.path.join(out("trials"), "metrics.csv"), "w", encoding="utf-8") as file:
        file.write(whole[:len(whole) // 3])
    resumed = call("compare", *fixed, "--out", out("trials"), "--resume")
    check("--resume finishes the same trials", resumed.returncode == 0 and
          without_seconds(rows(out("trials"))) == without_seconds(table), resumed.stderr)
    reuse = call("compare", *flags, "--best-from", out("trials"), "--out", out("trials-reuse"))
    check("--best-from takes rate and knob", reuse.returncode == 0 and
          {(row["method"], row["lr"]) for row in rows(out("trials-reuse"))} ==
          {(method, line["lr"]) for method, line in lines.items()}, reuse.stderr)
    one = call("compare", *flags, "--lr", "0.01", "--contrast", knob, "bitfit", "--out", out("trials-lr"))
    tuned = {row["method"] for row in rows(out("trials-lr")) if row["seed"] == "1001"}
    check("a knob is chosen under a fixed rate too", one.returncode == 0 and curves["lora"] <= tuned and
          not os.path.exists(os.path.join(out("trials-lr"), "trials.csv")), one.stderr)
    pairs = [row["method"] for row in rows(out("trials-lr"), "table.csv") if row["seed"] == "against bitfit"]
    check("a contrast follows the knob", len(pairs) == 1 and pairs[0] in curves["lora"], pairs)


def divergence():
    flags = [*SMALL, "--projector", "full", "--optimizer", "sgd", "--quiet"]
    some = call("compare", *flags, "--lr", "0.01,1e30", "--out", out("some"))
    check("a diverged run stays in the file and does not stop the others",
          some.returncode == 0 and {"0", "1"} == {row["diverged"] for row in rows(out("some"))}, some.stderr)
    every = call("compare", *flags, "--lr", "1e30", "--out", out("every"))
    check("every run diverged: 4", every.returncode == 4 and len(every.stderr.splitlines()) <= 3,
          (every.returncode, every.stderr))


def refused():
    def bad(code, needle, *flags, program="compare"):
        target = out(f"bad{len(os.listdir(WORK))}")
        given = ["--out", target] if "--out" not in flags else []
        done = call(program, *flags, *given)
        left = os.path.exists(target)
        lines = done.stderr.strip().splitlines()
        check(f"{' '.join(flags)[-70:]!r}: {code}, {needle!r}",
              done.returncode == code and needle in done.stderr and 1 <= len(lines) <= 3 and not left and not done.stdout,
              (done.returncode, done.stderr, "left behind" if left else ""))

    bad(2, "did you mean 'lora'", "--projector", "lorra:rank=4")
    bad(2, "did you mean 'rank'", "--projector", "lora:rnak=4")
    bad(2, "there are zero, gaussian, symmetric", "--projector", "lora:init=symetric")
    bad(2, "did you mean 'seeds'", "--seedz", "3")
    bad(2, "rank", "--projector", "lora:rank=0")
    bad(2, "whole number", "--projector", "lora:rank=2.5")
    bad(2, "alpha", "--projector", "lora:alpha=-1")
    bad(2, "refresh_every", "--projector", "random:refresh_every=-1")
    bad(2, "--steps", "--steps=-1")
    bad(2, "--steps", "--steps", "1e3")
    bad(2, "--lr", "--lr=nan")
    bad(2, "--lr", "--lr=0")
    bad(2, "--margin", "--margin=inf")
    bad(2, "contradict", "--lr", "0.1", "--best-from", "x")
    bad(2, "contradict", "--trials", "9", "--lr", "0.1")
    bad(2, "contradict", "--trials", "9", "--best-from", "x")
    bad(2, "--trials 4 is too few for 'full'", "--trials", "4")
    bad(2, "at least 8", "--trials", "7", "--projector", "lora:alpha=1|2|3|4")
    bad(2, "--trials", "--trials", "0")
    bad(2, "two knobs", "--projector", "lora:rank=1|2,alpha=1|2")
    bad(2, "empty value", "--projector", "lora:rank=1|")
    bad(2, "'1' twice", "--projector", "lora:rank=1|1")
    bad(2, "rank", "--projector", "lora:rank=4|0")
    bad(2, "did you mean 'rank'", "--projector", "lora:rnak=4|8")
    bad(2, "twice", "--projector", "lora:rank=4|8", "lora:rank=8")
    bad(2, "above the limit", *TEACHER, "--projector", "lora:rank=4|10")
    bad(2, "contradict", "--overwrite", "--resume")
    bad(2, "twice", "--projector", "full", "full")
    bad(2, "twice", "--steps", "3", "--steps", "4")
    bad(2, "nesterov", "--optimizer", "sgd:nesterov=true")
    bad(2, "contradict", "--optimizer", "adam:moments=none,beta1=0.9")
    bad(2, "did you mean 'adam'", "--optimizer", "adamv")
    bad(2, "warm-up", *TEACHER, "--schedule", "cosine:warmup=20")
    bad(2, "without a flag", "stray")
    bad(2, "--shift", *SMALL, "--shift", "rotat:90")
    bad(2, "matches no matrix", *TEACHER, "--target", "query")
    bad(2, "matches no matrix", *TEACHER, "--projector", "lora", "--override", "query", "rank=2")
    bad(2, "no projector", *TEACHER, "--projector", "full", "--override", "w", "rank=2")
    bad(2, "above the limit", *TEACHER, "--projector", "lora:rank=10")
    bad(2, "decay_on", *TEACHER, "--projector", "random", "--optimizer", "adamw:decay_on=factors")
    bad(2, "--batch-size", *QUICK, "--data", DATA, "--cache", CACHE, "--batch-size", "100000")
    bad(2, "no meaning", *TEACHER, "--shift", "classes")
    bad(3, "no such folder", *QUICK, "--data", out("nowhere"))
    bad(3, "or another value of its knob", *TEACHER, "--projector", "lora:rank=2|3", "--best-from", out("main"))
    bad(3, "--config", "--config", DATA + "/train-labels-idx1-ubyte.gz")

    def damaged(name, needle, change, label=lambda digit: digit):
        bad(3, needle, *QUICK, "--data", dataset(name, change, label), "--cache", out("no-cache"))

    key = "train-images-idx3-ubyte.gz"
    damaged("missing", key, lambda files: files.pop(key))
    damaged("truncated", key, lambda files: files.update({key: files[key][:-4000]}))
    damaged("trailer", key, lambda files: files.update({key: files[key][:-8]}))
    damaged("flipped", key, lambda files: files.update({key: files[key][:5000] + b"\0\1\2\3" + files[key][5004:]}))
    damaged("magic", key, lambda files: files.update({key: gzip.compress(b"\1\2\3\4" + bytes(100))}))
    damaged("trailing", key, lambda files: files.update({key: gzip.compress(gzip.decompress(files[key]) + b"x", 1)}))
    damaged("labels", "label", lambda files: None, lambda digit: digit + 1)
    labels = "train-labels-idx1-ubyte.gz"
    damaged("count", "labels", lambda files: files.update({labels: gzip.compress(idx(bytes(700), 700))}))

    os.makedirs(out("taken"))
    with open(os.path.join(out("taken"), "mine.txt"), "w", encoding="utf-8") as file:
        file.write("not a run")
    bad(5, "exists", "--out", out("taken"))
    bad(5, "not a run folder", "--out", out("taken"), "--overwrite")
    check("a folder that is not ours is left alone", os.listdir(out("taken")) == ["mine.txt"])
    bad(6, "cannot be resumed", "--out", out("taken"), "--resume")
    bad(6, "does not exist", "--out", out("nothing"), "--resume")
    bad(5, "cannot be", "--out", "/dev/null/run")
    bad(5, "cannot be", "--out", "/proc/run")
    limited = subprocess.run(["bash", "-c", 'ulimit -f 4; exec "$0" "$@"', os.path.join(BIN, "compare"), *SMALL, "--quiet",
                              "--out", out("full")], capture_output=True, text=True, timeout=120)
    check("a full disk: 5, and one line", limited.returncode == 5 and len(limited.stderr.splitlines()) <= 3,
          (limited.returncode, limited.stderr))


def bfloat16():
    flags = [*SMALL, "--lr", "0.01", "--projector", "lora:rank=4", "--optimizer", "adam", "--quiet"]
    told = "--compute bf16 cannot be had"

    def metadata(name):
        with open(os.path.join(out(name), "metadata.json"), encoding="utf-8") as file:
            return json.load(file)["compute"]

    exact = call("compare", *flags, "--out", out("float"))
    check("float is the default, and recorded", exact.returncode == 0 and metadata("float") == "float", exact.stderr)
    rounded = call("compare", *flags, "--out", out("bf16"), "--compute", "bf16")
    had = told not in rounded.stderr
    check("--compute bf16 runs, or says that it computes in float", rounded.returncode == 0 and
          metadata("bf16").startswith("bf16, " if had else "float; bf16 was asked for"), rounded.stderr)
    losses = [[float(row["loss"]) for row in rows(out(name))] for name in ("float", "bf16")]
    apart = max(abs(a - b) / a for a, b in zip(*losses))
    check("bf16 moves the losses a little, its fallback not at all", 0 < apart < 0.1 if had else apart == 0, apart)
    # An instruction set without bfloat16, whatever the CPU.
    fallen = subprocess.run([os.path.join(BIN, "compare"), *flags, "--out", out("fallen"), "--compute", "bf16"], cwd=WORK,
                            capture_output=True, text=True, timeout=120, env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"})
    check("without its instructions bf16 is float, and says so", fallen.returncode == 0 and told in fallen.stderr and
          without_seconds(rows(out("fallen"))) == without_seconds(rows(out("float"))) and
          metadata("fallen").startswith("float; bf16 was asked for"), fallen.stderr)
    other = call("compare", *TEACHER, "--compute", "bf16", "--out", out("other"))
    check("a task that does not heed bf16 refuses it", not had or (other.returncode == 2 and "teacher" in other.stderr),
          other.stderr)


def words():
    for flag in ("--help", "--version", "--list", "--list-tasks", "--help-optimizer"):
        done = call("compare", flag)
        check(f"compare {flag} ends with 0", done.returncode == 0 and done.stdout and not done.stderr, done.stderr)
    listed = call("compare", "--list").stdout.splitlines()
    check("--list names one projector per line, name first",
          {"full", "lora", "random", "additive", "bitfit", "lora_fa"} <= {line.split()[0] for line in listed}, listed)
    check("--help-projector tells the options", "refresh_every" in call("compare", "--help-projector", "random").stdout)
    flags = call("compare", "--help").stdout
    for flag in ("projector optimizer task shift data compute steps batch-size lr seeds tune-seeds eval-every trials group-by margin best-from target "
                 "rest biases override schedule clip accumulate jobs threads out overwrite resume quiet config").split():
        check(f"--help names --{flag}", f"--{flag} " in flags)


def unbiased():
    done = call("unbiased", "--samples", "400", "--out", out("unbiased"))
    check("unbiased finds every identity", done.returncode == 0 and " 0 off" in done.stdout, done.stdout[-300:] + done.stderr)
    table = rows(out("unbiased"), "table.csv")
    check("one row per identity, with measured, predicted, standard error and verdict",
          len(table) > 200 and {"measured", "predicted", "standard_error", "verdict"} <= set(table[0]))


def teacher():
    flags = ["200" if flag == "20" else flag for flag in TEACHER]
    done = call("compare", *flags, "--lr", "0.02", "--projector", "full", "lora:rank=2", "lora:rank=1", "additive",
                "--optimizer", "adam", "--out", out("teacher"), "--quiet")
    lines = {row["method"]: row for row in rows(out("teacher"), "table.csv") if row["seed"] == "all"}
    reached = all(float(row["accuracy"]) <= float(row["best_accuracy"]) + 1e-3 for row in lines.values())
    check("teacher: no method passes its optimum, and the optimum is in the table", done.returncode == 0 and reached, done.stderr)
    check("teacher: the planted rank suffices", float(lines["lora:rank=2"]["best_accuracy"]) > 0.999)


for part in (words, results, resuming, trials, divergence, teacher, bfloat16, unbiased, refused):
    part()
sys.exit(failures > 0)
