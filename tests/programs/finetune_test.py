"""finetune on the tiny checkpoints of tests/golden: adapters, merged models, predictions, resuming, bad input. Standard library only."""
import csv
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

sys.dont_write_bytecode = True
from harness import BIN, check, end

GOLDEN = Path(__file__).parent.parent / "golden" / "transformers_models.safetensors"
WORK = Path(tempfile.mkdtemp(prefix="finetune_test-"))
TYPES = {"F32": "f", "F64": "d", "I32": "i", "I64": "q"}
RANDOM = random.Random(2)


def load(path):
    """{name: (shape, values)}, metadata"""
    raw = Path(path).read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    words = header.pop("__metadata__", {})
    return {name: (t["shape"], array(TYPES[t["dtype"]], raw[8 + size:][slice(*t["data_offsets"])])) for name, t in header.items()}, words


def save(path, tensors, words=None):
    header, data = {"__metadata__": words or {}}, b""
    for name, (dtype, shape, values) in tensors.items():
        body = array(TYPES[dtype], values).tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


RECORDED, RECORDED_WORDS = load(GOLDEN)


def checkpoint(name, change=lambda tensors, config: None, shards=1):
    folder = Path(tempfile.mkdtemp(prefix=name + "-", dir=WORK))
    prefix, config = name + ".w.", json.loads(RECORDED_WORDS[name])
    tensors = {key[len(prefix):]: ("F32", *value) for key, value in RECORDED.items() if key.startswith(prefix)}
    change(tensors, config)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save(folder / "model.safetensors", tensors)
        return folder
    names = {key: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, key in enumerate(tensors)}
    for file in set(names.values()):
        save(folder / file, {key: value for key, value in tensors.items() if names[key] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def texts(name, count=24, length=6, change=lambda tensors: None, words=None):
    """Rows whose label is told by their first word: something to be learned."""
    labels = [RANDOM.randrange(3) for _ in range(count)]
    ids = [[1 + 3 * label] + [RANDOM.randrange(13) for _ in range(length - 1)] for label in labels]
    kept = [[1] * (length - i % 3) + [0] * (i % 3) for i in range(count)]
    tensors = {"input_ids": ("I64", [count, length], sum(ids, [])), "attention_mask": ("I32", [count, length], sum(kept, [])),
               "labels": ("I64", [count], labels)}
    change(tensors)
    return save(WORK / name, tensors, words)


def call(*args, **more):
    return subprocess.run([os.path.join(BIN, "finetune"), "--threads", "1", "--no-plot", *map(str, args)], capture_output=True, text=True, check=False, **more)


def good(what, *args):
    done = call("--quiet", *args)
    check(what, done.returncode == 0, done.stderr.strip()[-300:])
    return done


def logits(path):
    return load(path)[0]["logits"]


def apart(a, b):
    return max((abs(x - y) for x, y in zip(a[1], b[1], strict=True)), default=0) if a[0] == b[0] else float("inf")


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def losses(folder):
    return [(row["step"], row["loss"], row["accuracy"], row["lr"], row["tokens"]) for row in rows(folder / "log.csv")]


BERT, GPT, LLAMA = checkpoint("bert_cls"), checkpoint("gpt2"), checkpoint("llama_untied")
TRAIN, EVAL, LONG = texts("train"), texts("eval", 9), texts("long", 7, 8)
CLASSIFY = ("--model", BERT, "--train", TRAIN, "--eval", EVAL, "--lr", 0.01, "--batch-size", 4)
LM = ("--train", TRAIN, "--eval", EVAL, "--task", "lm", "--lr", 0.01, "--batch-size", 4)
LORA = ("--projector", "lora:rank=2,alpha=3", "--target", "query|value")


def test_round_trip():
    """Every tuner of PEFT: what is saved gives the predictions of the run that made it, and so does the merged model."""
    cases = [(CLASSIFY, "query|value", spec) for spec in
             ("lora:rank=2,alpha=3", "lora:rank=2,alpha=3,scaling=rslora,lr_ratio=4", "lora:rank=2,alpha=5,init=pissa",
              "lora:rank=3,alpha=2,scaling=rslora,init=lora_ga", "lora:rank=2,alpha=3,init=symmetric", "lora_fa:rank=2,alpha=3",
              "dora:rank=2,alpha=3", "adalora:rank=3,target=2,alpha=5", "loha:rank=2,alpha=3", "lokr:rank=2,alpha=3", "vera:rank=5")]
    cases += [(("--model", GPT, *LM), "c_attn|mlp.c_fc", "lora:rank=2,alpha=3"), (("--model", GPT, *LM), "c_attn", "dora:rank=2,alpha=3"),
              (("--model", LLAMA, *LM), "q_proj|down_proj", "lora:rank=2,alpha=3,init=olora"), (("--model", LLAMA, *LM), "embed_tokens|v_proj", "lora:rank=2"),
              (("--model", LLAMA, *LM), "v_proj", "adalora:rank=2,target=1,alpha=3")]
    for model, target, spec in cases:
        out = Path(tempfile.mkdtemp(dir=WORK)) / "run"
        good(f"{spec} on {target}", *model, "--projector", spec, "--target", target, "--steps", 12, "--save", out, "--merge", "--predict", WORK / "a")
        again = [model[0], model[1], *model[4:]]  # without --train
        good("  its adapter", *again, "--adapter", out, "--steps", 0, "--predict", WORK / "b")
        good("  its merged model", "--model", out / "merged", *again[2:], "--steps", 0, "--predict", WORK / "c")
        made = logits(WORK / "a")
        size = max(map(abs, made[1]))
        off = [apart(made, logits(WORK / name)) / size for name in "bc"]
        check("  both predict what the run did, within 3e-6", max(off) <= 3e-6, f"{off}")
        first, last = rows(out / "metrics.csv")[0], rows(out / "metrics.csv")[-1]
        check("  it has learned", (float(last["loss"]) < float(first["loss"]) or model is not CLASSIFY) and int(last["step"]) == 12)
        if spec.startswith(("lora", "dora")) and "init" not in spec:
            more = out.parent / "more"
            good("  goes on from it", *model, "--adapter", out, "--steps", 3, "--save", more)
            score = float(rows(more / "metrics.csv")[0]["loss"])
            check("  from where it was", abs(score - float(last["loss"])) <= 3e-6 * (1 + score), f"{score} {last['loss']}")
    config = json.loads((out / "adapter_config.json").read_text())
    check("the configuration names base and task", config["task_type"] == "CAUSAL_LM" and config["base_model_name_or_path"] == str(LLAMA))


def test_mutated_base():
    """A start with a product of its own, on the base that it leaves: rank r there, the same predictions."""
    for model, target, spec in ((CLASSIFY, "query|value", "lora:rank=2,alpha=5,init=pissa"),
                                (("--model", LLAMA, *LM), "v_proj", "lora:rank=2,alpha=3,scaling=rslora,init=lora_ga")):
        out = Path(tempfile.mkdtemp(dir=WORK)) / "run"
        good(f"{spec} with its mutated base", *model, "--projector", spec, "--target", target, "--steps", 12, "--save", out, "--mutated-base",
             "--predict", WORK / "a")
        config = json.loads((out / "adapter_config.json").read_text())
        check("  has its own rank and alpha, and names the base", config["r"] == 2 and abs(config["lora_alpha"] - (5 if "pissa" in spec else 3)) < 1e-6 and
              config["base_model_name_or_path"] == str(out / "base"), config)
        good("  predicts again", "--model", out / "base", *model[4:], "--adapter", out, "--steps", 0, "--predict", WORK / "b")
        made = logits(WORK / "a")
        off = apart(made, logits(WORK / "b")) / max(map(abs, made[1]))
        check("  the same, within 3e-6", off <= 3e-6, off)


def test_parts():
    """Biases, further modules, whole models; what PEFT has no form for."""
    out = WORK / "parts"
    more = ("--bias", "all", "--save-modules", "pooler|LayerNorm")
    good("biases and saved modules", *CLASSIFY, *LORA, *more, "--steps", 8, "--save", out, "--predict", WORK / "a")
    tensors = load(out / "adapter_model.safetensors")[0]
    prefix = "base_model.model.bert."
    check("are in the adapter", all(prefix + name in tensors for name in
          ("encoder.layer.0.attention.self.query.base_layer.bias", "encoder.layer.1.intermediate.dense.bias", "pooler.dense.weight", "embeddings.LayerNorm.weight"))
          and "base_model.model.classifier.weight" in tensors)
    good("and come back", *CLASSIFY[:2], *CLASSIFY[4:], "--adapter", out, "--steps", 0, "--predict", WORK / "b")
    check("with the same predictions", apart(logits(WORK / "a"), logits(WORK / "b")) <= 1e-5)
    plain = WORK / "plain"
    good("without them", *CLASSIFY, *LORA, "--steps", 8, "--save", plain)
    check("only factors and head are saved", len(load(plain / "adapter_model.safetensors")[0]) == 2 * 4 + 2)
    for spec in ("full", "galore:rank=2", "random:rank=2", "additive", "bitfit"):
        out = WORK / ("merged-" + spec.split(":")[0])
        done = call(*CLASSIFY, "--projector", spec, "--target", ".", "--steps", 8, "--save", out, "--predict", WORK / "a")
        check(f"{spec}: says that the merged model is saved", done.returncode == 0 and "merged model is saved instead" in done.stderr, done.stderr)
        good("  which predicts the same", "--model", out / "merged", *CLASSIFY[4:], "--steps", 0, "--predict", WORK / "b")
        check("  within 3e-6", apart(logits(WORK / "a"), logits(WORK / "b")) <= 3e-6 and not (out / "adapter_config.json").exists())
    frozen, _ = load(BERT / "model.safetensors")
    merged, _ = load(WORK / "merged-bitfit" / "merged" / "model.safetensors")
    check("bitfit moves biases alone", all((frozen[name] == merged[name]) == (not name.endswith("bias")) for name in frozen if not name.startswith("classifier")))
    merged, _ = load(WORK / "merged-full" / "merged" / "model.safetensors")
    check("full moves norms and embeddings", all(frozen[name] != merged[name] for name in frozen if "LayerNorm" in name or "word" in name))
    done = good("lm: logits of every token", "--model", GPT, *LM[2:], "--steps", 0, "--predict", WORK / "a")
    shape, values = logits(WORK / "a")
    check("  [N, L, V], 0 where there is none", shape == [9, 6, 13] and not any(values[11 * 13:12 * 13]) and any(values[10 * 13:11 * 13]))
    good("mean pooling", *CLASSIFY, *LORA, "--pooling", "mean", "--steps", 8, "--save", WORK / "mean", "--predict", WORK / "a")
    good("  and back", *CLASSIFY[:2], *CLASSIFY[4:], "--pooling", "mean", "--adapter", WORK / "mean", "--steps", 0, "--predict", WORK / "b")
    check("  within 3e-6", apart(logits(WORK / "a"), logits(WORK / "b")) <= 3e-6)
    def unlabelled(tensors):
        del tensors["labels"]
    unknown = texts("unknown", 5, change=unlabelled)
    done = good("texts without labels are predicted", *CLASSIFY[:4], "--eval", unknown, *CLASSIFY[6:], *LORA, "--steps", 4, "--save", WORK / "unknown-run", "--predict", WORK / "a")
    check("  and not scored", logits(WORK / "a")[0] == [5, 3] and done.stdout.split()[-4] == "-" and not (WORK / "unknown-run/metrics.csv").exists(), done.stdout)
    good("  without training", "--model", BERT, "--eval", unknown, "--adapter", WORK / "unknown-run", "--steps", 0, "--predict", WORK / "b")
    check("  the same", apart(logits(WORK / "a"), logits(WORK / "b")) <= 1e-5)
    def headless(tensors, config):
        for key in ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"):
            del tensors[key]
    bare = checkpoint("bert_cls", headless)
    for target in ("query", "query|pooler"):
        good(f"a checkpoint without pooler and head, {target}", "--model", bare, *CLASSIFY[2:], *LORA[:3], target, "--steps", 4, "--save", WORK / "bare", "--overwrite",
             "--predict", WORK / "a")
        good("  what was drawn is saved", "--model", bare, *CLASSIFY[4:], "--seed", 7, "--adapter", WORK / "bare", "--steps", 0, "--predict", WORK / "b")
        check("  the same predictions under another seed", apart(logits(WORK / "a"), logits(WORK / "b")) <= 1e-5)
    names = texts("named", words={"labels": json.dumps(["x", "y", "z", "w"])})
    good("a new head of as many classes as are named", *CLASSIFY[:2], "--train", names, *CLASSIFY[4:], *LORA, "--steps", 2, "--save", WORK / "new", "--predict", WORK / "a")
    check("  [N, 4], with their names", logits(WORK / "a")[0] == [9, 4] and json.loads(load(WORK / "a")[1]["labels"]) == ["x", "y", "z", "w"])


def test_four_bits():
    """QLoRA: the linear layers in 4 bits, the adapter beside them, and the same predictions from what is saved. Dropout on its input."""
    for kind, model, target in ((BERT, CLASSIFY, "query|value"), (LLAMA, ("--model", LLAMA, *LM), "q_proj|down_proj")):
        for spec in ("lora:rank=2,alpha=3", "lora:rank=2,alpha=3,init=symmetric", "adalora:rank=2,target=1,alpha=3"):
            out = Path(tempfile.mkdtemp(dir=WORK)) / "run"
            good(f"{spec} beside nf4", *model, "--projector", spec, "--target", target, "--frozen", "nf4", "--steps", 8, "--save", out, "--predict", WORK / "a")
            again = ("--model", kind, "--eval", EVAL, "--task", "classify" if kind is BERT else "lm", "--adapter", out, "--steps", 0)
            good("  its adapter", *again, "--frozen", "nf4", "--predict", WORK / "b")
            good("  on the weights as they are", *again, "--predict", WORK / "c")
            a, b, c = (logits(WORK / name) for name in "abc")
            size = max(map(abs, a[1]))
            check("  the same predictions, and others in float", apart(a, b) <= 1e-5 * size and apart(a, c) > 1e-3 * size, f"{apart(a, b)} {apart(a, c)}")
    bad("--frozen with --merge", 2, "contradict", *CLASSIFY, *LORA, "--frozen", "nf4", "--merge", "--save", WORK / "never")
    bad("--frozen without an adapter", 2, "", *CLASSIFY, "--projector", "galore:rank=2", "--target", "query", "--frozen", "nf4", "--save", WORK / "never")
    for dropout in ("0", "0.5"):
        good(f"--lora-dropout {dropout}", *CLASSIFY, *LORA, "--no-shuffle", "--no-dropout", "--lora-dropout", dropout, "--steps", 8, "--save", WORK / ("drop" + dropout))
    check("  is another training", losses(WORK / "drop0") != losses(WORK / "drop0.5"))
    check("  and is recorded", json.loads((WORK / "drop0.5/adapter_config.json").read_text())["lora_dropout"] == 0.5)
    bad("--lora-dropout without a product", 2, "has no product", *CLASSIFY, "--projector", "galore:rank=2", "--target", "query", "--lora-dropout", 0.1, "--save", WORK / "never")


def script(name, *args):
    return subprocess.run([sys.executable, Path(__file__).resolve().parents[2] / "scripts" / name, *map(str, args)], capture_output=True, text=True, check=False)


def test_text():
    """scripts/tokenize --bytes and scripts/wordnet-glosses: what they write, and what they refuse."""
    table = WORK / "text.tsv"
    table.write_text('text\tlabel\nab\tyes\n"c ""d"""\tno\nlonger\tyes\n')
    done = script("tokenize", "--bytes", "--input", table, "--output", WORK / "t", "--max-length", 5)
    tensors, words = load(WORK / "t")
    check("tokenize: bytes, cut and padded", done.returncode == 0 and tensors["input_ids"] == ([3, 5], array("i", list(b"ab\0\0\0" + b'c "d"' + b"longe")))
          and tensors["attention_mask"][1] == array("i", [1, 1, 0, 0, 0] + [1] * 10), done.stderr)
    check("  labels in order of their names", list(tensors["labels"][1]) == [1, 0, 1] and json.loads(words["labels"]) == ["no", "yes"])
    lines = WORK / "more.jsonl"
    lines.write_text('{"text": "x", "label": "yes"}\n\n{"text": "y", "label": 0}\n')
    done = script("tokenize", "--bytes", "--input", lines, "--output", WORK / "t2", "--labels-of", WORK / "t")
    check("  numbered as in another file", done.returncode == 0 and list(load(WORK / "t2")[0]["labels"][1]) == [1, 0], done.stderr)
    book = WORK / "book.txt"
    book.write_text("ä" + "b" * 10)
    done = script("tokenize", "--bytes", "--input", book, "--output", WORK / "t3", "--blocks", "--max-length", 4)
    check("  blocks", done.returncode == 0 and load(WORK / "t3")[0]["input_ids"] == ([3, 4], array("i", list("äbbbbbbbbbb".encode()))), done.stderr)
    for what, code, says, args in (
            ("a column that is not there", 3, "no column 'body'; there are text, label", ("--input", table, "--text", "body")),
            ("a label that training has not", 3, "label 'maybe' is not among", ("--input", lines.with_name("l.jsonl"), "--labels-of", WORK / "t")),
            ("a file that is not there", 3, "nowhere", ("--input", WORK / "nowhere.txt")), ("fewer tokens than a block", 3, "fewer than a block", ("--input", book, "--blocks"))):
        lines.with_name("l.jsonl").write_text('{"text": "x", "label": "maybe"}\n')
        done = script("tokenize", "--bytes", "--output", WORK / "never", *args)
        check(f"tokenize: {what}", done.returncode == code and says in done.stderr and len(done.stderr.splitlines()) == 1 and not (WORK / "never").exists(), done.stderr)
    words = texts("words", words={"labels": json.dumps(["a", "b", "c"])})
    good("names of classes", *CLASSIFY[:2], "--train", words, *CLASSIFY[4:], *LORA, "--steps", 2, "--merge", "--save", WORK / "names")
    config = json.loads((WORK / "names/merged/config.json").read_text())
    check("  are those of the merged model", config["id2label"] == {"0": "a", "1": "b", "2": "c"} and config["label2id"]["c"] == 2)

    folder = WORK / "wordnet"
    folder.mkdir()
    synset = '00000001 {:02} n 01 word 0 000 | {}  \n'
    for part, rows in {"noun": [(5, 'an animal; "it barked"'), (20, "a plant"), (3, "both")], "verb": [(38, "to move"), (30, "both")], "adj": [], "adv": []}.items():
        (folder / f"data.{part}").write_text("  1 licence\n" + "".join(synset.format(*row) for row in rows))
    done = script("wordnet-glosses", "--folder", folder)
    check("wordnet-glosses: no examples, no text of two classes", sorted(done.stdout.splitlines()) == ["a plant\tnoun.plant", "an animal\tnoun.animal", "text\tlabel", "to move\tverb.motion"], done.stdout)
    apart = [script("wordnet-glosses", "--folder", folder, *args).stdout.splitlines()[1:] for args in (("--take", 1), ("--skip", 1))]
    check("  --take and --skip part the same order", sum(apart, []) == done.stdout.splitlines()[1:])
    check("  nouns alone", len(script("wordnet-glosses", "--folder", folder, "--parts", "noun").stdout.splitlines()) == 3)
    check("  a folder without it: 3", script("wordnet-glosses", "--folder", WORK).returncode == 3)


def test_order():
    """--no-shuffle takes the rows of the file; the seed is the order otherwise; dropout can be turned off."""
    def run(name, *more):
        good(name, *CLASSIFY, *LORA, "--steps", 8, "--save", WORK / name, "--overwrite", *more)
        return losses(WORK / name)
    one, again = run("one"), run("again")
    check("the same bits again", one == again and (WORK / "one/adapter_model.safetensors").read_bytes() == (WORK / "again/adapter_model.safetensors").read_bytes())
    check("another seed is another run", run("other", "--seed", 1) != one)
    straight = run("straight", "--no-shuffle", "--no-dropout")
    tokens = [sum((6, 5, 4)[(4 * step + i) % 24 % 3] for i in range(4)) for step in range(8)]
    check("--no-shuffle: the tokens of rows 4t … 4t + 3", [int(row[4]) for row in straight] == tokens)
    check("dropout is on unless it is turned off", run("dropped", "--no-shuffle") != straight)
    header = (WORK / "one/log.csv").read_text().splitlines()[0]
    check("log.csv", header == "step,loss,accuracy,lr,tokens,train_seconds" and len(one) == 8)


def test_long():
    """Shifted sparse attention is for training alone; the factor of the positions belongs to the model."""
    out, whole = WORK / "long-run", WORK / "whole-run"
    asked = ("--model", LLAMA, *LM, "--projector", "lora:rank=2,alpha=3", "--target", "q_proj|k_proj|v_proj|o_proj", "--save-modules", "embed|norm")
    good("lm: groups of two, positions divided by eight, not four", *asked, "--rope-factor", 8, "--group", 2, "--steps", 6, "--save", out, "--merge", "--predict", WORK / "a")
    good("  and without groups", *asked, "--rope-factor", 8, "--steps", 6, "--save", whole)
    first = [rows(folder / "metrics.csv")[0]["loss"] for folder in (out, whole)]
    check("  are evaluated alike", first[0] == first[1], first)
    check("  and trained differently", losses(out)[0] != losses(whole)[0])
    on = ("--adapter", out, "--steps", 0, "--predict", WORK / "b")
    good("its adapter, with the factor", *asked[:2], *LM[2:], *on, "--rope-factor", 8)
    good("its merged model, which has it", "--model", out / "merged", *LM[2:], "--steps", 0, "--predict", WORK / "c")
    check("  both predict what the run did", all(apart(logits(WORK / "a"), logits(WORK / name)) <= 1e-5 for name in "bc"))
    good("its adapter, without the factor", *asked[:2], *LM[2:], *on)
    check("  predicts something else", apart(logits(WORK / "a"), logits(WORK / "b")) > 1e-3)
    had, has = (json.loads((folder / "config.json").read_text()) for folder in (LLAMA, out / "merged"))
    check("there are more positions", has["max_position_embeddings"] > had["max_position_embeddings"], has)


def test_resume():
    """Stopped anywhere, it ends in the same bits."""
    whole = WORK / "whole"
    run = (*CLASSIFY, "--projector", "adalora:rank=3,target=2,alpha=5", "--target", "query|value", "--steps", 400, "--save-every", 7,
           "--eval-every", 100, "--optimizer", "adamw", "--merge")
    good("a run of 400 steps", *run, "--save", whole)
    for how, sent in (("interrupted", signal.SIGINT), ("killed", signal.SIGKILL)):
        out = WORK / how
        process = subprocess.Popen([os.path.join(BIN, "finetune"), "--quiet", *map(str, run), "--threads", "1", "--no-plot", "--save", str(out)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out / "checkpoint.safetensors").exists():
            time.sleep(0.001)
        process.send_signal(sent)
        process.wait()
        check(f"{how} at work", process.returncode in (-9, 130), process.returncode)
        (out / "log.csv").open("a").write("17,torn")
        good("  goes on", *run, "--save", out, "--resume")
        check("  to the same bits", all((out / name).read_bytes() == (whole / name).read_bytes() for name in ("adapter_model.safetensors", "merged/model.safetensors"))
              and losses(out) == losses(whole))
        check("  with the same evaluations", [(r["step"], r["loss"]) for r in rows(out / "metrics.csv")] == [(r["step"], r["loss"]) for r in rows(whole / "metrics.csv")])
        check("  and no checkpoint left", not (out / "checkpoint.safetensors").exists() and not list(out.glob("*.tmp")))
    bad("a finished run is not resumed", 6, "is finished", *run, "--save", whole, "--resume")
    bad("nor one with other flags", 2, "--lr was", *(x if x != 0.01 else 0.02 for x in run), "--save", whole, "--resume")
    spoilt = WORK / "spoilt"
    spoilt.mkdir()
    for name in ("run.json", "metadata.json"):
        shutil.copy(whole / name, spoilt)
    text = (spoilt / "run.json").read_text().replace(str(whole), str(spoilt))
    (spoilt / "run.json").write_text(text)
    (spoilt / "checkpoint.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    bad("a checkpoint that is none", 6, "checkpoint.safetensors", *run, "--save", spoilt, "--resume")


def bad(what, code, says, *args):
    before = sorted(WORK.iterdir())
    done = call(*args)
    message = done.stderr.strip().splitlines()
    holds = done.returncode == code and len(message) >= 1 and says in message[-1] and not done.stdout
    check(what, holds and len([line for line in message if "error" in line]) == 1, f"{done.returncode} {done.stderr.strip()[-400:]}")
    left = [path for path in WORK.iterdir() if path not in before]
    check("  leaves nothing behind", not left, left)


def test_bad_input():
    out = ("--save", WORK / "never")
    def classify(model=BERT, train=TRAIN, eval=EVAL):
        return ("--model", model, "--train", train, "--eval", eval, "--lr", 0.01, "--steps", 4, *out)
    def renamed(tensors, config):
        config["model_type"] = "mamba"
    bad("an unsupported architecture", 3, "mamba", *classify(checkpoint("bert_cls", renamed)), *LORA)
    sharded = checkpoint("bert_cls", shards=3)
    good("a checkpoint in shards", "--model", sharded, "--eval", EVAL, "--steps", 0, "--predict", WORK / "s")
    good("is the one in one file", "--model", BERT, "--eval", EVAL, "--steps", 0, "--predict", WORK / "a")
    check("  bit for bit", logits(WORK / "s") == logits(WORK / "a"))
    (sharded / "model-00002-of-00003.safetensors").unlink()
    bad("a missing shard", 3, "model-00002-of-00003.safetensors", *classify(sharded), *LORA)
    def narrower(tensors, config):
        key = "bert.encoder.layer.1.output.dense.weight"
        tensors[key] = ("F32", [12, 9], [0.0] * 108)
    bad("a tensor of another shape", 3, "[12, 9], expected [12, 10]", *classify(checkpoint("bert_cls", narrower)), *LORA)
    def without(tensors, config):
        del tensors["bert.encoder.layer.1.output.dense.weight"]
    bad("a missing tensor", 3, "no tensor 'bert.encoder.layer.1.output.dense.weight'", *classify(checkpoint("bert_cls", without)), *LORA)
    def word(tensors):
        tensors["input_ids"][2][5] = 13
    bad("an id beyond the vocabulary", 3, "id 13 in row 0, the model has 13", *classify(train=texts("word", change=word)), *LORA)
    bad("a text that is too long", 3, "position 8 in row 0, the model has 8", *classify(train=texts("longer", 4, 9)), *LORA)
    def label(tensors):
        tensors["labels"][2][4] = 3
    bad("a label of --eval outside", 3, "label 3 in row 4, expected 0 to 2", *classify(eval=texts("label", 9, change=label)), *LORA)
    def unlabelled(tensors):
        del tensors["labels"]
    bad("no labels", 3, "no tensor 'labels'", *classify(train=texts("unlabelled", change=unlabelled)), *LORA)
    other = texts("order", words={"labels": json.dumps(["b", "a", "c"])}), texts("order2", 9, words={"labels": json.dumps(["a", "b", "c"])})
    bad("labels in another order", 3, "its labels have other names", *classify(train=other[0], eval=other[1]), *LORA)
    bad("a target that matches nothing", 2, "did you mean 'query'?", *classify(), *LORA[:3], "qurey|value")
    bad("a target that is no expression", 2, "not a regular expression", *classify(), *LORA[:3], "que(ry")
    bad("a model that is not there", 3, "is no folder", *classify(WORK / "nowhere"), *LORA)
    bad("a file of tokens that is not there", 3, "nowhere", *classify(train=WORK / "nowhere"), *LORA)
    bad("no learning rate", 2, "--lr X is required", *classify()[:6], *LORA, *out)
    bad("groups in an encoder", 2, "--group is for --task lm", *classify(), *LORA, "--group", 4)
    bad("positions that have a table", 2, "are not rotary", "--model", GPT, *LM, "--projector", "lora", "--target", "c_attn", "--rope-factor", 2)
    bad("a task that the model has not", 3, "is no causal language model", *classify(), *LORA, "--task", "lm")
    bad("a language model that classifies", 3, "has no classifier", *classify(GPT), *LORA)
    bad("--merge with --pooling mean", 2, "contradict", *classify(), *LORA, "--merge", "--pooling", "mean")
    bad("mean pooling without an adapter", 2, "nothing could be saved", *classify(), "--projector", "full", "--target", ".", "--pooling", "mean")
    bad("a folder that is there", 5, "exists", *classify()[:-2], *LORA, "--save", WORK)
    bad("a file that cannot be written", 5, "nowhere", *classify(), *LORA, "--predict", WORK / "nowhere" / "p")
    bad("it diverges", 4, "left the finite numbers", "--model", BERT, "--train", TRAIN, "--lr", 1e38, "--optimizer", "sgd", "--schedule", "constant",
        "--steps", 40, *LORA, "--quiet", "--save", Path(tempfile.mkdtemp()) / "diverged")

    adapter = WORK / "adapter"
    good("an adapter", *CLASSIFY, *LORA, "--steps", 2, "--save", adapter)
    using = ("--eval", EVAL, "--steps", 0, "--predict", WORK / "never")
    bad("an adapter for another base", 3, "adapter_", "--model", GPT, "--task", "lm", *using, "--adapter", adapter)
    def wider(tensors, config):
        config["num_hidden_layers"] = 1
        for key in [key for key in tensors if ".layer.1." in key]:
            del tensors[key]
    bad("an adapter for more layers", 3, "unexpected: ", "--model", checkpoint("bert_cls", wider), *using, "--adapter", adapter)
    cut = WORK / "cut"
    shutil.copytree(adapter, cut)
    raw = (cut / "adapter_model.safetensors").read_bytes()
    (cut / "adapter_model.safetensors").write_bytes(raw[:-7])
    bad("an adapter cut short", 3, "adapter_model.safetensors", "--model", BERT, *using, "--adapter", cut)
    bad("an adapter of another rank", 2, "the adapter's module", *classify(), "--adapter", adapter, "--projector", "lora:rank=3,alpha=3")
    bad("an adapter of another method", 2, "galore", *classify(), "--adapter", adapter, "--projector", "galore:rank=2")
    bad("a target that leaves the adapter out", 2, "leaves out", *classify(), "--adapter", adapter, "--target", "query")

    bad("a mutated base of a start that leaves it", 2, "--mutated-base is for starts", *classify(), *LORA, "--mutated-base")
    tied = checkpoint("llama_tied")
    embedded = WORK / "embedded"
    good("LoRA on embeddings", "--model", LLAMA, *LM, "--projector", "lora:rank=2", "--target", "embed_tokens", "--steps", 2, "--save", embedded)
    bad("merged into tied weights", 3, "is the head as well", "--model", tied, "--task", "lm", *using, "--adapter", embedded)


tests = (test_round_trip, test_mutated_base, test_parts, test_four_bits, test_text, test_order, test_long, test_resume, test_bad_input)
try:
    for test in tests:
        before = time.perf_counter()
        test()
        print(f"{test.__name__}: {time.perf_counter() - before:.1f} s", flush=True)
finally:
    shutil.rmtree(WORK, ignore_errors=True)
end()
