"""The contract of replay and replay64: exact numbers, formats, files, bad input. Standard library only.

    python3 replay_test.py BIN_DIR
"""

import csv
import json
import math
import signal
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from replay_bad_input import test_bad_input
from replay_harness import (
    BIN, FAILED, WORK, call, check, distance, flat, folder, load, matmul, plus, replay, save, tensor, transpose)


def test_numbers():
    m, n, r, steps, lr, s = 4, 3, 2, 5, 0.1, 3 / 2
    w0, u, v, gs = tensor(m, n), tensor(m, r), tensor(r, n), tensor(steps, m, n)
    weights, gradients = save("w", {"a": w0}), save("g", {"a": gs})
    factors = save("f", {"a.u": u, "a.v": v})
    out = load(replay(weights, gradients, ["lora:rank=2,alpha=3"], "--factors", factors, "--trace", lr=lr)
               / "o.safetensors")
    check("OUT holds the weight, its factors, its trace", sorted(out) == ["a", "a.trace", "a.u", "a.v"])
    w, trace = w0, [w0]
    for g in gs:
        du = [[-lr * s * x for x in row] for row in matmul(g, transpose(v))]
        dv = [[-lr * s * x for x in row] for row in matmul(transpose(u), g)]
        w = plus(plus(w, matmul(du, plus(v, dv)), s), matmul(u, dv), s)
        u, v = plus(u, du), plus(v, dv)
        trace.append(w)
    worst = max(distance(out["a"], w), distance(out["a.u"], u), distance(out["a.v"], v))
    check("lora under sgd: W, u, v within 1e-12 of pure Python", worst <= 1e-12, f"{worst:.1e}")
    worst = distance(out["a.trace"], trace)
    check("the trace at every step, too", len(out["a.trace"]) == steps + 1 and worst <= 1e-12, f"{worst:.1e}")
    check("the trace begins with W0 and ends with W, bit for bit",
          out["a.trace"][0] == w0 and out["a.trace"][-1] == out["a"])

    out = load(replay(weights, gradients, ["additive"], lr=lr) / "o.safetensors")
    w, u, v = w0, [0.0] * m, [0.0] * n
    for g in gs:
        du = [-lr * math.fsum(row) / math.sqrt(n) for row in g]
        dv = [-lr * math.fsum(column) / math.sqrt(m) for column in zip(*g)]
        w = [[w[i][j] + du[i] / math.sqrt(n) + dv[j] / math.sqrt(m) for j in range(n)] for i in range(m)]
        u, v = [x + d for x, d in zip(u, du)], [x + d for x, d in zip(v, dv)]
    worst = max(distance(out["a"], w), distance(out["a.u"], u), distance(out["a.v"], v))
    check("additive under sgd within 1e-12", worst <= 1e-12, f"{worst:.1e}")

    report = folder() / "r.csv"
    replay(weights, gradients, ["full", "lora:rank=3"], "--report", report)
    with report.open(newline="") as file:
        header, *rows = csv.reader(file)
    check("report: columns, and one row per step, weight, projector",
          header == ["step", "weight", "projector", "grad_norm", "gain", "cosine", "captured"]
          and [(row[0], row[2]) for row in rows] == [(str(t), p) for t in range(steps) for p in ("full", "lora:rank=3")])
    norms = [math.sqrt(math.fsum(x * x for x in flat(g))) for g in gs]
    worst = max(abs(float(row[3]) - norms[int(row[0])]) for row in rows)
    worst = max([worst] + [abs(float(x) - 1) for row in rows if row[2] == "full" for x in row[4:]])
    check("report: the norm of G; full has gain, cosine and captured 1", worst <= 1e-12, f"{worst:.1e}")


def test_forms():
    steps, tokens = 4, 5
    delta = {name: tensor(steps, tokens, m) for name, m in (("a", 4), ("b.x", 1))}
    x = {name: tensor(steps, tokens, n) for name, n in (("a", 3), ("b.x", 6))}
    weights = save("w", {"a": tensor(4, 3), "b.x": tensor(1, 6), "cold": tensor(2, 2)})
    pairs = save("p", {f"{k}.{end}": t[k] for k in delta for end, t in (("delta", delta), ("x", x))})
    dense = {k: [matmul(transpose(d), y) for d, y in zip(delta[k], x[k])] for k in delta}
    plain = save("d", dense)
    specs = ["full", "lora:rank=2,alpha=3,init=symmetric", "lora_fa:rank=2", "random:rank=2", "additive:rank=2", "bitfit"]
    one, two = replay(weights, pairs, specs, "--trace"), replay(weights, plain, specs, "--trace")
    for k, spec in enumerate(specs, 1):
        a, b = (load(out / f"o-{k}.safetensors") for out in (one, two))
        worst = max(distance(a[name], b[name]) for name in a)
        check(f"{spec}: pair and dense agree within 1e-12", sorted(a) == sorted(b) and worst <= 1e-12, f"{worst:.1e}")
    check("a file per projector, nothing else",
          sorted(p.name for p in one.iterdir()) == [f"o-{k}.safetensors" for k in range(1, 7)])
    start, first, last = (load(p) for p in (weights, one / "o-1.safetensors", one / "o-6.safetensors"))
    check("a weight without gradient is copied, and has no factors",
          first["cold"] == start["cold"] and sorted(first) == ["a", "a.trace", "b.x", "b.x.trace", "cold"])
    check("a 1 x n weight is adapted like any other", first["b.x"] != start["b.x"])
    check("bitfit moves nothing", all(last[name] == start[name] for name in start))

    names = save("names", {"a": tensor(4, 3), "a.x": tensor(2, 2), "a.delta": tensor(2, 2)})
    own = save("own", {"a": dense["a"], "a.x": tensor(4, 2, 2), "a.delta": tensor(4, 2, 2)})
    out = load(replay(names, own, ["full"], "--trace") / "o.safetensors")
    check("weights called .x and .delta have gradients of their own", len(out) == 6)
    names = save("names", {"a": tensor(4, 3), "a.x": tensor(2, 2)})
    pair = save("own", {"a.delta": delta["a"], "a.x": x["a"]})
    out = load(replay(names, pair, ["full"], "--trace") / "o.safetensors")
    check("half a pair beside the other half, though a weight is called so", sorted(out) == ["a", "a.trace", "a.x"])

    w, g = [[0.0, 0.0], [0.0, 0.0]], [[[1.0, -0.5], [0.25, 3.0]]] * 3
    for dtype in ("F64", "F32", "F16", "BF16"):
        for program in ("replay", "replay64"):
            out = replay(save("w", {"a": w}, dtype), save("g", {"a": g}, dtype), ["full"], lr=0.5, program=program)
            check(f"{dtype} in {program}", load(out / "o.safetensors")["a"] == [[-1.5, 0.75], [-0.375, -4.5]])


def test_files():
    weights, gradients = save("w", {"a": tensor(9, 7), "b": tensor(6, 8)}), save("g", {"b": tensor(6, 6, 8), "a": tensor(6, 9, 7)})
    start = load(weights)
    specs = ["lora:rank=2", "random:rank=2,refresh_every=2", "full"]
    args = (weights, gradients, specs, "--seed", 7, "--clip", 2, "--schedule", "cosine:warmup=2")

    def bits(out):
        return [p.read_bytes() for p in sorted(out.glob("*.safetensors"))]

    for program in ("replay", "replay64"):
        one = replay(*args, optimizer="adam", program=program)
        again = replay(*args, optimizer="adam", program=program)
        report = replay(*args, "--report", WORK / "r.csv", optimizer="adam", program=program)
        other = replay(*args[:3], "--seed", 8, "--clip", 2, "--schedule", "cosine:warmup=2", optimizer="adam", program=program)
        check(f"{program}: the same seed gives the same bits", bits(one) == bits(again))
        check(f"{program}: a report changes no bits", bits(one) == bits(report))
        check(f"{program}: another seed another result, full the same",
              [a == b for a, b in zip(load_all(one), load_all(other))] == [False, False, True])
    alone = replay(weights, save("g1", {"b": load(gradients)["b"]}), specs[:2], optimizer="sgd")
    both = replay(weights, gradients, specs[:2], optimizer="sgd")
    check("frames are keyed by name: one weight's result needs no other",
          all(a["b"] == b["b"] for a, b in zip(load_all(alone), load_all(both))))

    tall = save("tall", {"a": tensor(300, 50)}), save("gtall", {"a.delta": tensor(3, 70, 300), "a.x": tensor(3, 70, 50)}), specs
    for program in ("replay", "replay64"):
        results = [bits(replay(*tall, "--threads", n, optimizer="adam", program=program)) for n in (1, 3)]
        check(f"{program}: the same bits with 1 and 3 threads", results[0] == results[1])

    tiny = {"a.u": tensor(9, 2), "a.v": tensor(2, 7), "b.v": tensor(2, 8)}
    out = replay(weights, gradients, ["lora:rank=2", "lora_fa:rank=2", "full"], "--factors", save("f", tiny), lr=1e-300)
    a, b, _ = load_all(out)
    check("factors in = factors out where lr is tiny, W stays",
          all(a[k] == tiny[k] == b[k] for k in tiny) and distance(a["b.u"], [[0.0] * 2] * 6) < 1e-290
          and all(a[k] == b[k] == start[k] for k in start))

    done = call("--weights", weights, "--gradients", gradients, "--projector", "full", "--optimizer", "sgd", "--lr", "1",
                "--out", out / "o-3.safetensors")
    check("an old OUT is replaced; stdout names projector and file, stderr the parameters",
          done.returncode == 0 and load(out / "o-3.safetensors")["a"] != start["a"] and "‖W − W₀‖" in done.stdout
          and str(out / "o-3.safetensors") in done.stdout and "frozen" not in done.stderr and "9 x 7" in done.stderr)
    config = WORK / "run.json"
    config.write_text(json.dumps({"weights": str(weights), "gradients": str(gradients), "projector": ["full"],
                                  "optimizer": "sgd", "lr": 1, "out": str(out / "c.safetensors"), "quiet": True}))
    check("--config", call("--config", config).returncode == 0
          and (out / "c.safetensors").read_bytes() == (out / "o-3.safetensors").read_bytes())
    big = save("big", {"a": [[[1e308] * 7] * 9] * 6})
    one = save("one", {"a": tensor(1, 9, 7), "b": tensor(1, 6, 8)})
    moved = load(replay(weights, one, ["full"], "--clip", 0.5, lr=1) / "o.safetensors")
    norm = math.hypot(*(x - y for k in start for x, y in zip(flat(moved[k]), flat(start[k]))))
    check("--clip bounds the norm over all weights", abs(norm - 0.5) <= 1e-12, f"{abs(norm - 0.5):.1e}")
    done = call("--weights", weights, "--gradients", big, "--projector", "full", "bitfit", "--optimizer", "sgd",
                "--lr", "10", "--out", out / "e.safetensors", "--quiet")
    check("one of two projectors diverged: a note, the other's file, exit 0",
          done.returncode == 0 and "step 0 under full" in done.stderr and "diverged" in done.stdout
          and [p.name for p in out.glob("e*")] == ["e-2.safetensors"])


def load_all(out):
    return [load(p) for p in sorted(out.glob("*.safetensors"))]


def test_prepass():
    """lora_ga at rank 1: v0 and u0 are the first and the second singular vectors of the mean gradient, times 2^(1/4)."""
    weights = save("w", {"a": tensor(2, 2)})
    gs = [[[1.0, 0.0], [0.0, 2.0]], [[5.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]
    gradients, c = save("g", {"a": gs}), 2**0.25
    for batches, first in ((1, 1), (2, 0)):
        out = replay(weights, gradients, ["lora:rank=1,alpha=2,init=lora_ga,gamma=1"], "--init-batches", batches)
        a = load(out / "o.safetensors")
        v, u = ([c * (k == first) for k in range(2)], [[c * (k != first)] for k in range(2)])
        signed = [[abs(x) for x in row] for row in a["a.v0"]], [[abs(x) for x in row] for row in a["a.u0"]]
        worst = max(distance(signed[0], [v]), distance(signed[1], u))
        check(f"--init-batches {batches}: the start is that of the mean", worst <= 1e-12, f"{worst:.1e}")


def test_words():
    for program in ("replay", "replay64"):
        done = call("--list", program=program)
        check(f"{program} --list", done.returncode == 0 and done.stdout.startswith("full "))
    for flag in (["--help"], ["--version"], ["--help-projector", "lora"], ["--help-optimizer"]):
        done = call(*flag)
        check(" ".join(flag), done.returncode == 0 and done.stdout and not done.stderr)
    help_text = call("--help").stdout
    flags = "weights gradients projector optimizer lr schedule factors init-batches seed trace report out clip quiet threads config"
    check("--help names every flag", all(f"--{flag} " in help_text for flag in flags.split()))


def test_interrupt():
    shape = [100_000, 128, 128]  # zeros that take no room
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * math.prod(shape)]}}).encode()
    gradients = WORK / "long"
    with gradients.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 4 * math.prod(shape))
    out = folder()
    process = subprocess.Popen(
        [BIN / "replay", "--weights", save("w", {"a": tensor(128, 128)}), "--gradients", gradients, "--projector", "full",
         "--optimizer", "adam", "--lr", "1", "--out", out / "o", "--report", out / "r", "--quiet"], stderr=subprocess.PIPE)
    while len(list(out.iterdir())) < 2 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code = process.wait()
    left = list(out.iterdir())
    check("interrupted: 130, nothing left", code == 130 and not left, "" if code == 130 and not left else f"{code} {left}")


try:
    for test in (test_numbers, test_forms, test_files, test_prepass, test_words, test_bad_input, test_interrupt):
        test()
finally:
    subprocess.run(["rm", "-rf", WORK], check=False)
print(f"{len(FAILED)} failed: {', '.join(FAILED)}" if FAILED else "all hold")
sys.exit(bool(FAILED))
