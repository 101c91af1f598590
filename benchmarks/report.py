#!/usr/bin/env python3
"""results.json of several programs into one, and docs/performance.md out of it. Standard library only; called by scripts/bench.

    report.py --merge OUT FILE…            report.py --results results.json --machine JSON --docs docs/performance.md
"""
import argparse
import json
import os
import platform
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
FINDINGS = os.path.join(HERE, "findings.md")  # written by hand: the limits behind what was missed

# name, what, gate, goal; a gate of None is for report, goals of growth are distances from what counting predicts.
OURS = [
    ("lazy_768_T512_r4", "projection of δᵀx left factored, against forming G and projecting it", 20, 33),
    ("lazy_4096_T512_r16", "the same, 4096 × 4096, rank 16", 20, 40),
    ("project_4096_r1", "G vᵀ and uᵀG from one read of G, against two sgemm", 4, 6.5),
    ("project_4096_r8", "the same, rank 8", 2.4, 3.4),
    ("project_read_fraction_r1", "its speed as a fraction of reading G", 0.55, 0.85),
    ("update_4096_r1", "W += du v + u dv in one pass, against two sgemm", 3, 6),
    ("update_4096_r4", "the same, rank 4", 2.3, 4.5),
    ("update_4096_r8", "the same, rank 8", 1.8, 2.6),
    ("adam_stream_fraction", "full-rank Adam as a fraction of a stream over the same 28 bytes per entry", 0.8, 0.97),
    ("random_sgd_768_r1", "frames redrawn every step against full-rank SGD (one GEMM into W), T = 512", 15, 38),
    ("random_sgd_4096_r1", "the same, 4096 × 4096", 15, 35),
    ("random_sgd_whole_step", "the same with forward and backward, block of d = 768", 1.2, 1.45),
    ("additive_vs_lora_r1", "`additive` against `lora:rank=1`, weight-gradient part, T = 512", None, 1.3),
    ("block_step_768_T512_lora8_full", "step of a block's six linear layers: `lora:rank=8` against `full`, both Adam", 1.25, 1.45),
    ("block_gemm_share_T2048", "share of the `lora:rank=8` step that is GEMM of forward and dX", 0.9, 0.97),
    ("rss_lazy_fraction", "peak memory over W, x, δ, dX: full Adam's over `lora:rank=8`'s", 25, 45),
    ("growth_m", "exponent of the weight-gradient part in m = n", None, 0.1),
    ("growth_r", "… in r", None, 0.1),
    ("growth_T", "… in T", None, 0.1),
]
PEERS = [
    ("project_768x3072_r4_torch", "projection of a dense G, rank 4, against PyTorch", None, 5.5),
    ("update_4096_r4_torch", "rank-4 update against PyTorch's two addmm_", None, 4),
    ("adam_4096_torch", "full-rank Adam against PyTorch's best", None, 1.2),
    ("block_step_768_T512_lora8_peft", "the block's step: `lora:rank=8` against PEFT's LoRA", None, 1.4),
    ("block_step_768_T512_lora8_torch_full", "the block's step: `lora:rank=8` against PyTorch's full fine-tuning", None, 1.7),
    ("block_step_768_T512_lora8_bf16", "the block's step: `lora:rank=8` against PEFT under bf16 autocast", None, None),
]


def write_atomically(path, text):
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".part", path)


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def merge(out, paths):
    rows = [row for path in paths for row in read(path)]
    write_atomically(out, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def counted(row):
    found = re.search(r"counting predicts (-?[\d.]+)", row["note"])
    return float(found.group(1)) if found else None


def verdict(row, gate, goal):
    if row["ratio"] is None:
        return "not measured"
    if row["unit"] == "exponent":
        return "reached" if abs(row["ratio"] - counted(row)) <= goal else "missed"
    if goal is None:
        return ""
    if row["ratio"] >= goal:
        return "reached"
    return "missed" if gate is None else "gate held, goal missed" if row["ratio"] >= gate else "gate missed"


def number(value):
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def figure(row):
    return f"{number(row['ratio'])} [{number(row['low'])}, {number(row['high'])}]"


def table(rows, bars):
    lines = ["| name | what | figure [95 % interval] | gate | goal | |", "|---|---|---|---|---|---|"]
    for name, what, gate, goal in bars:
        row = rows.get(name)
        if not row:
            continue
        aim = f"{counted(row):.2f} ± {goal}" if row["unit"] == "exponent" else number(goal)
        lines.append(f"| `{name}` | {what} | {figure(row)} | {number(gate)} | {aim} | {verdict(row, gate, goal)} |")
    return lines


def cpu():
    model, flags = platform.processor() or platform.machine(), ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            text = file.read()
        model = re.search(r"model name\s*: (.*)", text).group(1)
        flags = re.search(r"flags\s*: (.*)", text).group(1).split()
    except (OSError, AttributeError):
        pass
    caches = []
    folder = "/sys/devices/system/cpu/cpu0/cache"
    for index in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if index.startswith("index"):
            parts = {}
            for part in ("level", "type", "size"):
                with open(f"{folder}/{index}/{part}", encoding="utf-8") as file:
                    parts[part] = file.read().strip()
            if parts["type"] != "Instruction":
                caches.append(f"L{parts['level']} {parts['size']}")
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{model}, {os.cpu_count()} CPUs, caches {', '.join(caches) or 'unknown'}, {' '.join(known) or platform.machine()}"


def lost(rows):
    """Rows in which we are the slower, or short of a gate or a goal."""
    lines = []
    for name, what, gate, goal in OURS + PEERS:
        row = rows.get(name)
        if not row or row["ratio"] is None:
            continue
        slower = row["unit"] == "times" and row["ratio"] < 1
        how = "we are slower" if slower else verdict(row, gate, goal)
        if slower or "missed" in how:
            lines.append(f"- `{name}`: {figure(row)}, {how}.")
    return lines or ["Nothing in this run: no row below 1, every goal reached."]


def docs(rows, machine):
    rows = {row["name"]: row for row in rows}
    out = ["# Performance", "",
           "Written by `scripts/bench --peers`; every figure is of that one run. A ratio is the other's time over ours: above 1 we are",
           "faster. Fractions, shares and exponents say so.", "",
           "## Machine", "", f"- {cpu()}", f"- {platform.system()}, Python {platform.python_version()}"]
    out += [f"- {name}: {value}" for name, value in machine.items()]
    peers = [re.search(r"torch \S+, peft \S+, transformers [^\s,]+", row["note"]) for row in rows.values()]
    out += [f"- peers: {found}" for found in sorted({found.group(0) for found in peers if found})]
    out += ["", "What plain loops and sgemm reach here, in the same run:", "", "| limit | figure [95 % interval] | |", "|---|---|---|"]
    out += [f"| {name[6:-10].replace('_', ' ')}, threads: {name[-9]} | {figure(row)} | {row['unit']} |" for name, row in rows.items() if name.startswith("limit_")]
    out += ["", "## Against ourselves and the machine", "", *table(rows, OURS)]
    if any(name in rows for name, *_ in PEERS):
        out += ["", "## Against PyTorch and PEFT", "",
                "The same matrices, checked to give the same results before anything is timed; each peer at the fastest of its settings.",
                "", *table(rows, PEERS)]
    out += ["", "## What we lose", "", *lost(rows)]
    if os.path.exists(FINDINGS):
        with open(FINDINGS, encoding="utf-8") as file:
            out += ["", file.read().strip()]
    out += ["", "## How it was measured", "",
            "All contenders of a row run in one process, in turn, in slots of 80 ms (or one call, where that takes longer), 15 rounds; the",
            "figure is the median of the rounds' ratios, its interval comes from order statistics. During a slot the CPU time of the whole",
            "machine is compared with our own: where others had more than a quarter of the slot's time, it is run again, as often per row as",
            "there are rounds; after that it counts, and the row's note says how many such slots there were. sgemm is OpenBLAS at one thread,",
            "its result split over our threads along the longer side; our own pool sleeps while the peer runs, and the peer's threads wait",
            "passively. The memory row takes the peak (VmHWM) of child processes. Notes with the times of every contender:", ""]
    out += [f"- `{name}`: {row['note']}" for name, row in rows.items()]
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--merge", nargs="+", metavar="FILE", help="the first is written, of the rows of the others")
    parser.add_argument("--peer-names", action="store_true", help="print the names of the rows against PyTorch")
    parser.add_argument("--results", metavar="FILE")
    parser.add_argument("--machine", metavar="JSON", type=json.loads, default={}, help="what bench_ratios --describe prints")
    parser.add_argument("--docs", metavar="FILE")
    options = parser.parse_args()
    if options.peer_names:
        print("\n".join(name for name, *_ in PEERS))
    elif options.merge:
        merge(options.merge[0], options.merge[1:])
    elif options.results and options.docs:
        write_atomically(options.docs, docs(read(options.results), options.machine))
    else:
        parser.print_usage(sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
