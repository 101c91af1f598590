"""The table of docs/pytorch.md: examples/finetune_minilm.py with each method, tuned, then several seeds, then speed alone.

    python examples/minilm_table.py --model "$(scripts/fetch-minilm)" --runs build/minilm.jsonl

Learning rates are tuned per method on a seed that is not reported: a grid of factors of √10 that is extended while its
best rate is at an edge. Scores are of paired seeds: same texts, same order, same head. Speed is of short runs in turn,
one process each, on a machine with nothing else to do. Every run is a line of --runs; what is there is not repeated, so
that a stopped table goes on.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

METHODS = {  # how it is called in the table, and the first rate of its grid
    "full": 1e-4,
    "peft": 1e-3,
    "lora:rank=8,alpha=16": 1e-3,
    "adalora:rank=8,alpha=16": 1e-3,
    "galore:rank=8,refresh_every=50": 1e-3,
    "random:rank=8": 1e-3,
}
TUNING_SEED, SEEDS = 100, (0, 1, 2)
STEP = 10 ** 0.5
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t by degrees of freedom


class Runs:
    def __init__(self, path, example, model, threads, steps, batch):
        self.path = Path(path)
        self.command = [sys.executable, example, "--model", model, "--threads", str(threads)]
        self.fixed = {"steps": steps, "batch": batch}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.done = {self.key(run["asked"]): run for run in map(json.loads, lines)}

    @staticmethod
    def key(asked):
        return json.dumps(asked, sort_keys=True)

    def __call__(self, **asked):
        asked = {**self.fixed, **asked}
        if self.key(asked) not in self.done:
            command = self.command + [w for k, v in asked.items() if k != "round" for w in (f"--{k}", str(v))]
            print(" ".join(f"{k}={v}" for k, v in asked.items()), file=sys.stderr, flush=True)
            out = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
            if out.returncode:
                sys.exit(f"minilm_table: error: {' '.join(command)}\n{out.stderr}")
            run = {**json.loads(out.stdout), "asked": asked}
            self.done[self.key(asked)] = run
            with self.path.open("a") as file:
                file.write(json.dumps(run) + "\n")
        return self.done[self.key(asked)]


def tuned_rate(runs, method, evaluate):
    score = {}

    def at(notch):
        lr = float(f"{METHODS[method] * STEP ** notch:.3g}")
        score[notch] = (runs(method=method, lr=lr, seed=TUNING_SEED, evaluate=evaluate)["accuracy"], lr)

    for notch in (-1, 0, 1):
        at(notch)
    while (best := max(score, key=lambda n: score[n][0])) in (min(score), max(score)) and len(score) < 7:
        at(best - 1 if best == min(score) else best + 1)
    return score[best][1]


def interval(values):
    mean = statistics.mean(values)
    half = T_975[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return mean, half


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--runs", required=True, help="a line per run; gone on with where it is there")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--evaluate", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2, help="of the speed runs")
    parser.add_argument("--speed-steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("scores", "speed"), help="one half of the runs; no table")
    a = parser.parse_args()
    example = str(Path(__file__).with_name("finetune_minilm.py"))
    scores = Runs(a.runs, example, a.model, a.threads, a.steps, a.batch)
    speed = Runs(a.runs, example, a.model, a.threads, a.speed_steps, 32)
    rows = {}
    if a.only != "speed":
        for method in METHODS:
            lr = tuned_rate(scores, method, a.evaluate)
            rows[method] = [lr, [scores(method=method, lr=lr, seed=seed, evaluate=a.evaluate) for seed in SEEDS]]
    quick = {method: [] for method in METHODS}
    if a.only != "scores":
        for turn in range(a.rounds):
            for method, lr in METHODS.items():
                quick[method].append(speed(method=method, lr=lr, seed=TUNING_SEED, evaluate=0, round=turn))
    if a.only:
        return
    peft = [run["accuracy"] for run in rows["peft"][1]]
    times = {m: statistics.median(run["seconds_per_step"] for run in quick[m]) for m in METHODS}
    print("| method | lr | accuracy | against PEFT | s/step | PEFT's time / its | memory of training |\n|---|---|---|---|---|---|---|")
    for method, (lr, of) in rows.items():
        mean, half = interval([run["accuracy"] for run in of])
        difference, spread = interval([run["accuracy"] - other for run, other in zip(of, peft)])
        against = "" if method == "peft" else f"{100 * difference:+.1f} ± {100 * spread:.1f}"
        peak = statistics.median(run["peak_MB"] - run["resident_MB"] for run in quick[method])
        name = "PEFT's LoRA, rank=8, alpha=16" if method == "peft" else f"`{method}`"
        print(f"| {name} | {lr:g} | {100 * mean:.1f} ± {100 * half:.1f} % | {against} | {times[method]:.3f} "
              f"| {times['peft'] / times[method]:.2f} | {peak:.0f} MB |")


if __name__ == "__main__":
    main()
