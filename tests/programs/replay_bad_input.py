"""Bad input to replay: the exit code, one to three lines, and nothing left behind."""

import math
import os
import resource

from replay_harness import WORK, call, check, folder, save, tensor

GOOD_W = save("good_w", {"a": tensor(4, 3), "b": tensor(2, 2)})
GOOD_G = save("good_g", {"a": tensor(5, 4, 3)})


def refused(name, code, words, *, w=None, g=None, drop=(), out="o.safetensors", projector=("lora:rank=2",), more=(),
            program="replay64", keep=(), **process):
    """A call that has to fail with this code and message and leave its folder as it was."""
    into = folder()
    for old in keep:
        (into / old).write_text("old")
    args = {"--weights": [w or GOOD_W], "--gradients": [g or GOOD_G], "--projector": list(projector), "--optimizer": ["sgd"],
            "--lr": ["0.1"], "--out": [into / out if isinstance(out, str) else out], "--quiet": []}
    for i in range(0, len(more), 2):
        args[more[i]] = more[i + 1]
    done = call(*(word for flag, words_ in args.items() if flag not in drop for word in (flag, *words_)),
                program=program, **process)
    left = {p.name: p.read_text() for p in into.iterdir()}
    holds = (done.returncode == code and 1 <= len(done.stderr.splitlines()) <= 3 and not done.stdout
             and all(word in done.stderr for word in words) and left == {old: "old" for old in keep})
    check(f"refused, {code}: {name}", holds, "" if holds else f"{done.returncode} {done.stderr!r} {sorted(left)}")


def test_bad_input():
    file = iter(range(10**6))

    def W(tensors, **more):
        return save(f"w{next(file)}", tensors, **more)

    def bad_g(name, words, tensors, **more):
        refused(name, 3, words, g=W(tensors, **more))

    def bad_f(name, words, tensors, projector=("lora:rank=2",), **more):
        refused(name, 3, words, projector=projector, more=("--factors", [W(tensors, **more)]))

    dense, nan = tensor(5, 4, 3), math.nan
    for flag in ("--weights", "--gradients", "--projector", "--optimizer", "--lr", "--out"):
        refused(f"no {flag}", 2, [flag], drop=[flag])
    for flag, value in (("--lr", "0"), ("--lr", "-1"), ("--lr", "nan"), ("--clip", "0"), ("--seed", "-1"), ("--threads", "0"),
                        ("--schedule", "cosin"), ("--schedule", "linear:warmup=5"), ("--optimizer", "adm"),
                        ("--optimizer", "sgd:momentum=1"), ("--optimizer", "sgd:beta1=0.5")):
        refused(f"{flag} {value}", 2, [], more=(flag, [value]))
    refused("unknown flag", 2, ["'weights'"], more=("--weigths", ["x"]))
    for spec in ("lorra", "lora:rank=0", "lora:rank=x", "lora:alpha=inf", "lora:rnak=2", "lora:rank=2:"):
        refused(f"--projector {spec}", 2, ["lora"], projector=[spec])
    refused("a rank that fits no matrix", 2, ["rank 9", "'lora:rank=9'"], projector=["full", "lora:rank=9"])
    refused("a projector twice", 2, ["twice"], projector=["full", "full"])
    ga = ["lora:rank=2,init=lora_ga"]
    refused("a pre-pass without use", 2, ["--init-batches", "starts from a gradient"], more=("--init-batches", ["2"]))
    refused("a pre-pass longer than the record", 2, ["--init-batches is 6", "5 steps"], projector=ga,
            more=("--init-batches", ["6"]))
    refused("factors of a start from the gradient", 3, ["starts from a gradient"], projector=ga,
            more=("--factors", [W({"a.u": tensor(4, 2)})]))
    refused("an option of another init", 2, ["'gamma'", "init=lora_ga"], projector=["lora:rank=2,gamma=2"])
    refused("decay without a meaning", 2, ["decay_on"], projector=["random"], more=("--optimizer", ["adamw:decay_on=factors"]))

    refused("no weights file", 3, ["cannot open"], w=WORK / "nowhere")
    refused("no gradients file", 3, ["cannot open"], g=WORK / "nowhere")
    refused("no factors file", 3, ["cannot open"], more=("--factors", [WORK / "nowhere"]))
    cut = WORK / "cut"
    cut.write_bytes(GOOD_G.read_bytes()[:-8])
    refused("truncated gradients", 3, ["cut"], g=cut)
    refused("a weight of rank 1", 3, ["'b'", "[3]"], w=W({"a": tensor(4, 3), "b": tensor(3)}))
    refused("a weight of rank 3", 3, ["'b'", "[2, 2, 2]"], w=W({"a": tensor(4, 3), "b": tensor(2, 2, 2)}))
    refused("an empty weight", 3, ["'b'", "[0, 3]"], w=W({"a": tensor(4, 3), "b": []}, shapes={"b": [0, 3]}))
    refused("whole numbers as weights", 3, ["'a'", "I64"], w=W({"a": tensor(4, 3)}, dtype="I64"))
    refused("no weights", 3, ["no tensor"], w=W({}))
    refused("a weight that is not finite", 3, ["'a'", "finite"], w=W({"a": [[nan] * 3] * 4}))
    refused("a weight called like a factor", 3, ["'a.u'"], w=W({"a": tensor(4, 3), "a.u": tensor(4, 2)}))
    refused("a weight called like a trace", 3, ["'a.trace'"], w=W({"a": tensor(4, 3), "a.trace": tensor(4, 2)}), more=("--trace", []))

    bad_g("no gradients", ["no tensor"], {})
    bad_g("a gradient without weight", ["'bb'", "'a', 'b'"], {"a": dense, "bb": dense})
    bad_g("a pair without weight", ["'c.delta'", "'a', 'b'"], {"a": dense, "c.delta": tensor(5, 6, 4), "c.x": tensor(5, 6, 3)})
    refused("a gradient where a weight has no name", 3, ["'foo'"], w=W({"": tensor(4, 3)}), g=W({"foo": dense}))
    bad_g("both forms", ["'a'", "'a.delta'", "'a.x'"], {"a": dense, "a.delta": tensor(5, 6, 4), "a.x": tensor(5, 6, 3)})
    bad_g("half a pair: no x", ["'a.delta'", "'a.x'"], {"a.delta": tensor(5, 6, 4)})
    bad_g("half a pair: no delta", ["'a.x'", "'a.delta'"], {"a.x": tensor(5, 6, 3)})
    bad_g("a gradient of another shape", ["'a'", "[5, 3, 4]", "[steps, 4, 3]"], {"a": tensor(5, 3, 4)})
    bad_g("a gradient of rank 2", ["'a'", "[4, 3]", "[steps, 4, 3]"], {"a": tensor(4, 3)})
    bad_g("delta of another width", ["'a.delta'", "[5, 6, 3]", "[steps, N, 4]"], {"a.delta": tensor(5, 6, 3), "a.x": tensor(5, 6, 3)})
    bad_g("x of another width", ["'a.x'", "[5, 6, 4]", "[5, 6, 3]"], {"a.delta": tensor(5, 6, 4), "a.x": tensor(5, 6, 4)})
    bad_g("x of other tokens", ["'a.x'", "[5, 7, 3]", "[5, 6, 3]"], {"a.delta": tensor(5, 6, 4), "a.x": tensor(5, 7, 3)})
    bad_g("x of other steps", ["'a.x'", "[6, 6, 3]", "[5, 6, 3]"], {"a.delta": tensor(5, 6, 4), "a.x": tensor(6, 6, 3)})
    bad_g("other steps", ["'b'", "[6, 2, 2]", "[5, 2, 2]"], {"a": dense, "b": tensor(6, 2, 2)})
    bad_g("zero steps", ["'a'", "[0, 4, 3]"], {"a": []}, shapes={"a": [0, 4, 3]})
    bad_g("zero tokens", ["'a.delta'", "[5, 0, 4]"], {"a.delta": [], "a.x": []}, shapes={"a.delta": [5, 0, 4], "a.x": [5, 0, 3]})
    bad_g("whole numbers as gradients", ["'a'", "I64"], {"a": dense}, dtype="I64")
    for end, words in (("delta", "'a.delta'"), ("x", "'a.x'")):
        pair = {"a.delta": tensor(5, 6, 4), "a.x": tensor(5, 6, 3)}
        pair[f"a.{end}"][3][2][1] = math.inf
        bad_g(f"inf in {end}", [words, "step 3", "finite"], pair)
    dense[2][1][1] = nan
    bad_g("nan in a gradient", ["'a'", "step 2", "finite"], {"a": dense})
    refused("an old OUT and report stay", 3, ["step 2"], g=W({"a": dense}), keep=["o.safetensors", "r.csv"])
    refused("a gradient beyond F32", 3, ["'a'", "step 0", "F32"], g=W({"a": [[[1e300] * 3] * 4]}), program="replay")

    bad_f("an unknown factor", ["'a.uu'", "'a.u', 'a.v'"], {"a.uu": tensor(4, 2)})
    bad_f("a factor of a frozen weight", ["'b.u'"], {"b.u": tensor(2, 2)})
    bad_f("a factor of another shape", ["'a.u'", "[4, 3]", "[4, 2]"], {"a.u": tensor(4, 3)})
    bad_f("a factor of rank 1", ["'a.u'", "[8]", "[4, 2]"], {"a.u": tensor(8)})
    bad_f("a factor that is not finite", ["'a.v'", "finite"], {"a.v": [[nan] * 3] * 2})
    bad_f("the dead saddle", ["'a'", "zero"], {"a.v": [[0.0] * 3] * 2})
    bad_f("factors for methods without", ["keeps factors"], {"a.u": tensor(4, 2)}, projector=["full", "random"])

    big = W({"a": [[[1e300] * 3] * 4] * 5})
    for projectors in (["full"], ["full", "random"]):
        refused(f"diverged: {' '.join(projectors)}", 4, ["'a'", "step 0", "full"], g=big, projector=projectors,
                more=("--lr", ["1e300"], "--trace", []), keep=["o.safetensors"])

    refused("OUT in no folder", 5, ["nowhere"], out="nowhere/o.safetensors")
    refused("OUT is a folder", 5, [str(WORK)], out=WORK)
    refused("OUT is a folder, before all else", 5, [str(WORK)], out=WORK, w=WORK / "nowhere")
    refused("the report is a folder", 5, [str(WORK)], more=("--report", [WORK]))
    refused("the report in no folder", 5, ["nowhere"], more=("--report", [WORK / "nowhere/r.csv"]))
    refused("report and OUT are one file", 2, ["--report"], out=WORK / "same", more=("--report", [WORK / "x/../same"]))
    if os.geteuid() != 0:
        sealed = folder()
        sealed.chmod(0o500)
        refused("OUT in a folder that is sealed", 5, ["sealed"], out=sealed / "o")
    refused("no room for the trace", 5, ["o.safetensors"], more=("--trace", []),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700)))
