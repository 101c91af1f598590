"""parameters as a user calls it: counts against published totals and hand-made sums, and bad input. Standard library only.

    python3 tests/programs/parameters_test.py BUILD/bin
"""
import csv
import json
import os
import subprocess
import tempfile

from harness import BIN, check, end

WORK = tempfile.mkdtemp(prefix="gradview-parameters-")


def call(*arguments):
    done = subprocess.run([os.path.join(BIN, "parameters"), *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def rows(*arguments):
    file = os.path.join(WORK, "out.csv")
    code, _, error = call(*arguments, "--csv", file)
    assert code == 0, error
    with open(file) as stream:
        return list(csv.DictReader(stream))


# The sizes that the models' own pages and transformers' num_parameters() give (bert and roberta with pooler).
PUBLISHED = {"bert-base": 109_482_240, "roberta-large": 355_359_744, "gpt2": 124_439_808, "llama-2-7b": 6_738_415_616,
             "llama-2-13b": 13_015_864_320, "llama-2-70b": 68_976_648_192, "falcon-180b": 179_522_565_120}
code, out, _ = call("--list-models")
listed = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in out.splitlines()}
check("models have their published sizes", code == 0 and all(listed[k] == v for k, v in PUBLISHED.items()), listed)

r = 8
[row] = rows("--model", "llama-2-7b", "--projector", f"lora:rank={r}", "--target", "q_proj|v_proj")
expected = 32 * 2 * r * (4096 + 4096)
check("LoRA on q and v of Llama-2 7B", int(row["trained"]) == expected and int(row["moments"]) == 2 * expected, row)
[row] = rows("--model", "gpt2", "--projector", f"galore:rank={r},side=right", "--optimizer", "sgd:momentum=0.9")
d = 768
trained = 12 * r * (3 * d + d + 4 * d + d)
check("GaLore trains rm, stores rn and keeps one moment",
      (int(row["trained"]), int(row["stored"]), int(row["moments"])) == (trained, 12 * r * (d + d + d + 4 * d), trained), row)
[row] = rows("--model", "gpt2", "--projector", "random:rank=2")
numbers = 12 * 12 * d * d
check("frames that come anew keep Adam's moments on the weight", int(row["moments"]) == 2 * numbers, row)
[row] = rows("--model", "bert-base", "--projector", "lora:rank=1000", "--target", "query")
check("a rank that no matrix holds is capped and said",
      int(row["capped"]) == 12 and int(row["trained"]) == 12 * 768 * 2 * 768, row)
parts = rows("--model", "gpt2", "--projector", "lora", "--matrices")
check("the rows of matrices add up", sum(int(p["trained"]) for p in parts[1:]) == int(parts[0]["trained"]) and len(parts) == 5)

config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
          "num_hidden_layers": 3, "vocab_size": 100, "tie_word_embeddings": True}
path = os.path.join(WORK, "config.json")


def with_config(change):
    with open(path, "w") as stream:
        stream.write(change if isinstance(change, str) else json.dumps({**config, **change}))


with_config({})
[row] = rows("--model", path, "--projector", "full")
block = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 96 * 64
check("a config.json", int(row["trained"]) == 3 * block and int(row["numbers"]) == 3 * (block + 128) + 100 * 64 + 64, row)

code, out, _ = call("--article")
line = next(line.split() for line in out.splitlines() if line.split()[:1] == ["8192"])
check("the article's formula and where it errs", code == 0 and line[1] == "19.959" and line[2].endswith("c!"), line)

BAD = [(["--model", "gpt3"], 2, "gpt3-175b"), (["--model", "/nowhere/config.json"], 3, "cannot be read"),
       (["--projector", "lorra"], 2, "did you mean 'lora'"), (["--rank", "0"], 2, "at least 1"), (["--rank", "x"], 2, "rank"),
       (["--target", "("], 2, "regular expression"), (["--target", "nothing"], 2, "matches no matrix"),
       (["--optimizer", "adams"], 2, "adam"), (["--csv", "/nowhere/x.csv"], 5, "/nowhere")]
for arguments, expected, words in BAD:
    code, out, error = call(*arguments)
    check(f"{' '.join(arguments)} ends with {expected}", code == expected and words in error and not out and len(error.splitlines()) <= 3,
          (code, error))
for change, words in [("{", "is not JSON"), ("[]", "expected a JSON object"), ({"model_type": "t5"}, "there are bert"),
                      ({"hidden_size": -1}, "whole number"), ({"hidden_size": 1e300}, "whole number"), ({"hidden_size": "64"}, "whole number"),
                      ({"vocab_size": None}, "vocab_size"), ({"tie_word_embeddings": 3}, "not a bool"),
                      ({"num_attention_heads": 65}, "num_attention_heads")]:
    with_config(change)
    code, out, error = call("--model", path)
    check(f"config.json {change}", code == 3 and words in error and len(error.splitlines()) <= 3, (code, error))
end()
