"""For tests of programs: safetensors by hand, matrices as lists of rows, calls, checks. Standard library only."""

import json
import math
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bin").resolve()
WORK = Path(tempfile.mkdtemp(prefix="replay_test-"))
FAILED = []


def check(name, holds, detail=""):
    print("ok  " if holds else "FAIL", name, f"({detail.strip()})" if detail else "", flush=True)
    if not holds:
        FAILED.append(name)


# --- safetensors -----------------------------------------------------------------------------------


def bf16(x):
    return struct.pack("<H", struct.unpack("<I", struct.pack("<f", x))[0] >> 16)


PACK = {"F64": lambda x: struct.pack("<d", x), "F32": lambda x: struct.pack("<f", x),
        "F16": lambda x: struct.pack("<e", x), "BF16": bf16, "I64": lambda x: struct.pack("<q", int(x))}
UNPACK = {"F64": "d", "F32": "f"}


def shape_of(values):
    shape = []
    while isinstance(values, list):
        shape.append(len(values))
        values = values[0] if values else 0
    return shape


def flat(values):
    return [x for v in values for x in flat(v)] if isinstance(values, list) else [values]


def save(name, tensors, dtype="F64", shapes=None):
    header, data = {}, b""
    for key, values in tensors.items():
        shape = (shapes or {}).get(key, shape_of(values))
        body = b"".join(map(PACK[dtype], flat(values)))
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header).encode()
    path = WORK / name
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def load(path):
    raw = Path(path).read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    out = {}
    for name, t in header.items():
        begin, end = (8 + size + o for o in t["data_offsets"])
        letter = UNPACK[t["dtype"]]
        numbers = list(struct.unpack(f"<{(end - begin) // struct.calcsize(letter)}{letter}", raw[begin:end]))
        for n in reversed(t["shape"][1:]):
            numbers = [numbers[i : i + n] for i in range(0, len(numbers), n)]
        out[name] = numbers
    return out


# --- matrices as lists of rows ---------------------------------------------------------------------

RANDOM = random.Random(1)


def tensor(*shape):
    if not shape:
        return RANDOM.gauss(0, 1)
    return [tensor(*shape[1:]) for _ in range(shape[0])]


def transpose(a):
    return [list(row) for row in zip(*a)]


def matmul(a, b):
    return [[math.fsum(x * y for x, y in zip(row, column)) for column in zip(*b)] for row in a]


def plus(a, b, s=1.0):
    return [[x + s * y for x, y in zip(p, q)] for p, q in zip(a, b)]


def distance(a, b):
    return max(abs(x - y) for x, y in zip(flat(a), flat(b), strict=True))


# --- the program -----------------------------------------------------------------------------------


def call(*args, program="replay64", **more):
    return subprocess.run([BIN / program, *map(str, args)], capture_output=True, text=True, check=False, **more)


COUNT = 0


def folder():
    global COUNT
    COUNT += 1
    path = WORK / f"out{COUNT}"
    path.mkdir()
    return path


def replay(w, g, projectors, *more, optimizer="sgd", lr=0.1, program="replay64"):
    """Runs it in an empty folder and gives the folder; a failure is a failed check."""
    out = folder()
    done = call("--weights", w, "--gradients", g, "--projector", *projectors, "--optimizer", optimizer, "--lr", lr,
                "--out", out / "o.safetensors", "--quiet", *more, program=program)
    if done.returncode != 0 or done.stderr:
        check(f"runs: {' '.join(map(str, projectors))}", False, done.stderr.strip())
    return out
