#!/usr/bin/env python3
"""Counts the instructions of the kernels and of whole steps, and compares them with instructions.json.

    benchmarks/instructions.py            builds, counts, prints; 1 where a count is off by more than 10 %
    benchmarks/instructions.py --record   the same, and writes the counts down as the new ones

Fixed inputs, one thread, AVX2 kernels: the counts are those of the code and of the compiler, whatever the
machine. Where they cannot be had, or another compiler made them, it says so and exits with 0.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORD = pathlib.Path(__file__).with_suffix(".json")
PROGRAM = ROOT / "build-instructions" / "bin" / "instructions"
PERMITTED = 0.10
# Nothing of the caller's environment. Kernels and BLAS of AVX2: valgrind knows no AVX-512. Without ERMS memcpy and
# memset are vector loops; `rep movsb` counts as an instruction per byte and would drown the rest.
ENVIRONMENT = {"GRADVIEW_ISA": "x86_64_v3", "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1",
               "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-ERMS"}


def skip(why):
    print(f"instructions: skipped, {why}")
    sys.exit(0)


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        sys.exit(f"instructions: {' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


def build():
    cmake = os.environ.get("GRADVIEW_CMAKE", "cmake")
    run(cmake, "--preset", "instructions", cwd=ROOT)
    run(cmake, "--build", "--preset", "instructions", cwd=ROOT)


def read_profile(text):
    """Of one dump: name, instructions, those inside BLAS, and which BLAS that was."""
    name = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.M)
    total = re.search(r"^totals: (\d+)$", text, re.M)
    if not name or not total:
        return None
    blas, version, inside, of_call = 0, None, False, False
    for line in text.splitlines():
        if line.startswith("ob="):
            inside = "blas" in line
            version = pathlib.Path(line[3:]).name if inside else version
        elif line.startswith("calls="):
            of_call = True  # the next line's cost is the callee's
        elif line[:1].isdigit():
            blas += int(line.split()[1]) if inside and not of_call else 0
            of_call = False
    return name[1], int(total[1]), blas, version


def count():
    with tempfile.TemporaryDirectory() as work:
        run("valgrind", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no", "--compress-pos=no",
            f"--callgrind-out-file={work}/profile", PROGRAM, env={"PATH": os.environ["PATH"], **ENVIRONMENT})
        dumps = sorted(pathlib.Path(work).glob("profile.*"), key=lambda path: int(path.suffix[1:]))
        profiles = [profile for profile in map(read_profile, (path.read_text() for path in dumps)) if profile]
    if not profiles:
        sys.exit("instructions: valgrind left no profile")
    return profiles


def change(before, now):
    return "new" if before is None else "gone" if now is None else f"{100 * (now / before - 1):+.1f} %"


def table(rows):
    lines = [("name", "before", "now", "change")]
    lines += [(name, before or "-", now or "-", change(before, now)) for name, before, now in rows]
    widths = [max(len(str(line[k])) for line in lines) for k in range(4)]
    for line in lines:
        print(f"{line[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:])), sep="  ")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--record", action="store_true", help="write the counts down as the new ones")
    record = arguments.parse_args().record
    if not shutil.which("valgrind"):
        skip("valgrind is not here (scripts/setup dev installs it)")
    cpu = pathlib.Path("/proc/cpuinfo")
    if not (cpu.exists() and re.search(r"^flags\b.*\bavx2\b", cpu.read_text(), re.M)):
        skip("this CPU has no AVX2")
    build()
    compiler = run(PROGRAM, "--compiler").strip()
    old = json.loads(RECORD.read_text()) if RECORD.exists() else {"compiler": compiler, "blas": None, "instructions": {}}
    major = lambda name: name.split(".")[0]  # "GCC 12"
    if major(compiler) != major(old["compiler"]) and not record:
        skip(f"{compiler} built it and the counts are those of {old['compiler']}")

    profiles = count()
    now = {name: total for name, total, _, _ in profiles}
    before = old["instructions"]
    table([(name, before.get(name), now.get(name)) for name in [*now, *(n for n in before if n not in now)]])
    blas = next((version for *_, version in profiles if version), None)
    in_blas = {name: inside / total for name, total, inside, _ in profiles if inside}
    if in_blas:
        print(f"in {blas}: " + ", ".join(f"{100 * share:.0f} % of {name}" for name, share in in_blas.items()))
    if record:
        RECORD.write_text(json.dumps({"compiler": compiler, "blas": blas, "instructions": now}, indent=2) + "\n")
        return

    exempt = set()
    if blas != old["blas"]:
        exempt = set(in_blas)
        print(f"not compared, for the counts are those of {old['blas']}: " + ", ".join(sorted(exempt)))
    off = [name for name in now.keys() | before.keys() if name not in exempt and
           (name not in now or name not in before or abs(now[name] / before[name] - 1) > PERMITTED)]
    if off:
        sys.exit(f"instructions: more than {PERMITTED:.0%} off, or new, or gone: {', '.join(sorted(off))}. "
                 "Where that is meant: benchmarks/instructions.py --record")


if __name__ == "__main__":
    main()
