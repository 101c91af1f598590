"""For tests of programs: where they are, checks that go on after a failure, and the verdict. Standard library only."""
import os
import sys

sys.dont_write_bytecode = True
BIN = os.path.abspath(sys.argv[1])
failures = []


def check(what, holds, detail=""):
    if not holds:
        failures.append(what)
    print(("ok    " if holds else "FAILED") + "  " + what + ("" if holds else f"  {detail}"), flush=True)


def end():
    print(f"{len(failures)} failed" if failures else "all as expected")
    sys.exit(1 if failures else 0)
