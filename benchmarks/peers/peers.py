#!/usr/bin/env python3
"""The same work in PyTorch and PEFT, timed beside ours in one process: rows of results.json. Called by scripts/bench --peers.

Nothing is timed before both have computed the same numbers. Each peer runs at its best: of several settings the fastest, as
found here, which the note names.
"""
import argparse
import json
import os
import sys
import time

THREADS = 2
os.environ["OMP_WAIT_POLICY"] = "passive"  # before torch: threads that wait must not take the other contender's CPU
os.environ["KMP_BLOCKTIME"] = "0"
os.environ.pop("OPENBLAS_CORETYPE", None)

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def main():
    from rows import ROWS, Bench  # after the environment is set: this imports torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="libgradview_bench.so")
    parser.add_argument("--out", required=True, help="where the rows go as JSON, replaced if it is there")
    parser.add_argument("--threads", type=int, default=THREADS, help="of both (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few and short slots, no torch.compile")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="rows to measure")
    parser.add_argument("--compile-seconds", type=float, default=75, help="time that torch.compile gets per model")
    options = parser.parse_args()
    unknown = [name for name in options.only if name not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; there are {', '.join(ROWS)}")

    bench = Bench(options)
    print(bench.described(), flush=True)
    done = []
    for name, measure in ROWS.items():
        if options.only and name not in options.only:
            continue
        start = time.monotonic()
        (ratio, low, high), note = measure(bench)
        done.append({"name": name, "ratio": ratio, "median": ratio, "low": low, "high": high, "unit": "times",
                     "note": f"{note}; {bench.described()}"})
        print(f"{name:<40} {ratio:8.3f}  [{low:.3f}, {high:.3f}] times   ({time.monotonic() - start:.0f} s)", flush=True)
        with open(options.out + ".part", "w", encoding="utf-8") as file:
            json.dump(done, file, indent=1)
        os.replace(options.out + ".part", options.out)


if __name__ == "__main__":
    main()
