#!/usr/bin/env python3
"""plot.py FOLDER: draws the pictures of a run folder. plot.py FOLDER FOLDER…: runs of compare over each other.

Exit codes: 0 drawn, or nothing to draw · 2 usage · 3 no run folder, or damaged · 5 cannot write.
A new experiment adds a line to DRAWINGS, and its draw(folder, options, metadata) to plots/."""
import importlib
import sys
from pathlib import Path

sys.dont_write_bytecode = True
from plots.common import fail, read_json

# Each experiment, drawn by the module of its name, with the file that it is known by and how that one begins.
DRAWINGS = [("unbiased", "table.csv", b"identity,family,side,"),
            ("subspace", "layers.csv", b"method,"),
            ("moments", "table.csv", b"task,frames,"),
            ("stability", "table.csv", b"start,scaling,"),
            ("allocation", "layers.csv", b"method,"),
            ("quantized", "table.csv", b"figure,base,"),
            ("expressivity", "table.csv", b"target,norm,"),
            ("intrinsic", "table.csv", b"method,rank,"),
            ("cost", "table.csv", b"scenario,method,"),
            ("where", "table.csv", b"kind,what,"),
            ("context", "positions.csv", b"attention,method,"),
            ("finetune", "log.csv", b"step,loss,"),
            ("compare", "metrics.csv", b"")]


def main(arguments):
    if not arguments or any(argument.startswith("-") for argument in arguments):
        fail(2, "usage: plot.py FOLDER…")
    folders = list(map(Path, arguments))
    for folder in folders:
        if not any((folder / name).is_file() for name in ("run.json", "metrics.csv", "table.csv")):
            fail(3, f"{folder} is not a run folder: it has no run.json")
    if len(folders) > 1:
        return importlib.import_module("plots.overlay").draw(folders)
    options, metadata = read_json(folder / "run.json"), read_json(folder / "metadata.json")
    for experiment, name, beginning in DRAWINGS:
        file, recorded = folder / name, metadata.get("experiment", experiment)
        if recorded == experiment and file.is_file() and file.read_bytes().startswith(beginning):
            return importlib.import_module("plots." + experiment).draw(folder, options, metadata)
    print(f"{folder}: no picture is known for what is in it")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        fail(5, error)
