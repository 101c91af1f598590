"""laws as a user calls it: the table, Markdown, bare names and bad input. Standard library only.

    python3 tests/programs/laws_test.py BUILD/bin
"""
import os
import subprocess

from harness import BIN, check, end


def call(*arguments):
    done = subprocess.run([os.path.join(BIN, "laws"), *arguments], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


code, out, error = call("--projector", "random:rank=3", "bitfit", "--mutants")
lines = out.splitlines()
check("a table with a row per spec and the reasons below", code == 0 and lines[0].split()[0] == "spec"
      and [line.split()[0] for line in lines[1:3]] == ["random:rank=3", "bitfit"] and "biases" in out, out + error)
check("a law that cannot say anything is not called ok", lines[1].split().count("ok") == len(lines[0].split()) - 3, lines[1])
code, out, _ = call("--projector", "lora", "--markdown")
check("a bare name stands for all its specs, in Markdown", code == 0 and out.count("|`lora:") > 1 and "|:-:|" in out, out)
for arguments, words in [(["--projector", "lorra"], "did you mean 'lora'"), (["--projector", "lora:rank=0"], "at least 1"),
                         (["--jobs", "0"], "--jobs")]:
    code, out, error = call(*arguments)
    check(f"{' '.join(arguments)} is refused", code == 2 and words in error and len(error.splitlines()) <= 3, (code, error))
end()
