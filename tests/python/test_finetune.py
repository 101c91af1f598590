"""finetune beside PEFT, on tiny random checkpoints: adapters both ways, and the same training.

GRADVIEW_BIN is the folder of the programs, by default build/bin; without them nothing is tested."""
import csv
import os
import pathlib
import subprocess
import tempfile
import unittest
import warnings

import torch
from common import needs

BIN = pathlib.Path(os.environ.get("GRADVIEW_BIN", pathlib.Path(__file__).resolve().parents[2] / "build" / "bin"))
ROWS, LENGTH, WORDS, CLASSES, BATCH, STEPS = 12, 10, 40, 3, 4, 50
TARGETS = {"bert": ["query", "value", "intermediate.dense"], "gpt2": ["c_attn", "mlp.c_proj"], "llama": ["q_proj", "k_proj", "down_proj"]}
# Ours, PEFT's class, its options.
TUNERS = {
    "lora:rank=3,alpha=5": ("LoraConfig", dict(r=3, lora_alpha=5)),
    "lora:rank=3,alpha=5,scaling=rslora": ("LoraConfig", dict(r=3, lora_alpha=5, use_rslora=True)),
    "dora:rank=3,alpha=5,norm=detached": ("LoraConfig", dict(r=3, lora_alpha=5, use_dora=True)),
    "adalora:rank=3,target=2,alpha=5": ("AdaLoraConfig", dict(init_r=3, target_r=2, lora_alpha=5, total_step=10)),
    "vera:rank=6": ("VeraConfig", dict(r=6, save_projection=True)),
    "loha:rank=3,alpha=5": ("LoHaConfig", dict(r=3, alpha=5)),
    "lokr:rank=2,alpha=5": ("LoKrConfig", dict(r=2, alpha=5)),
}
STARTS = ["lora:rank=3,alpha=5,init=pissa", "lora:rank=3,alpha=5,init=lora_ga,scaling=rslora", "lora:rank=3,alpha=5,init=symmetric"]


def make(kind):
    import transformers as t

    torch.manual_seed(1)
    if kind == "bert":
        model = t.BertForSequenceClassification(t.BertConfig(
            vocab_size=WORDS, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32, max_position_embeddings=16,
            num_labels=CLASSES, initializer_range=0.2, hidden_dropout_prob=0, attention_probs_dropout_prob=0))
    elif kind == "gpt2":
        model = t.GPT2LMHeadModel(t.GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=24, n_layer=2, n_head=3, n_inner=32, initializer_range=0.2,
                                               resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0))
    else:
        model = t.LlamaForCausalLM(t.LlamaConfig(vocab_size=WORDS, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                                 intermediate_size=32, max_position_embeddings=16, initializer_range=0.2, tie_word_embeddings=False))
    return model.eval()


def spread(model):
    """No parameter of an adapter is left where it starts."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape, generator=generator)
    return model


@unittest.skipUnless((BIN / "finetune").is_file(), f"no program {BIN / 'finetune'}")
@needs("peft", "transformers", "safetensors")
class Finetune(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        from safetensors.torch import save_file
        from transformers.utils import logging

        logging.set_verbosity_error(), logging.disable_progress_bar()
        warnings.filterwarnings("ignore")
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.scratch.name)
        generator = torch.Generator().manual_seed(2)
        cls.ids = torch.randint(WORDS, (ROWS, LENGTH), generator=generator)
        cls.mask = (torch.arange(LENGTH) < torch.arange(ROWS)[:, None] % 5 + 6).long()
        cls.labels = torch.arange(ROWS) % CLASSES
        save_file({"input_ids": cls.ids, "attention_mask": cls.mask, "labels": cls.labels}, cls.folder / "texts")
        for kind in TARGETS:
            make(kind).save_pretrained(cls.folder / kind)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def base(self, kind):
        import transformers as t

        auto = t.AutoModelForSequenceClassification if kind == "bert" else t.AutoModelForCausalLM
        return auto.from_pretrained(self.folder / kind).eval()

    def cases(self):
        for kind, targets in TARGETS.items():
            for spec, tuner in TUNERS.items():
                if not (kind == "gpt2" and spec.startswith(("loha", "lokr"))):  # not on Conv1D
                    yield kind, targets, spec, tuner

    def call(self, kind, *more):
        done = subprocess.run(
            [BIN / "finetune", "--model", self.folder / kind, "--task", "classify" if kind == "bert" else "lm", "--eval", self.folder / "texts",
             "--quiet", "--no-plot", "--overwrite", "--threads", "1", *map(str, more)], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def logits(self, model):
        with torch.no_grad():
            return model(input_ids=self.ids, attention_mask=self.mask).logits

    def off(self, kind, model):
        """How far PEFT's logits are from those that were predicted, of tokens that are there."""
        from safetensors.torch import load_file

        ours = load_file(self.folder / "logits")["logits"]
        gap = (ours - self.logits(model)).abs()
        return (gap if kind == "bert" else gap * self.mask[..., None]).max().item()

    def theirs(self, kind, targets, tuner):
        import peft

        name, options = tuner
        more = {"fan_in_fan_out": True} if kind == "gpt2" and name in ("LoraConfig", "AdaLoraConfig", "VeraConfig") else {}
        config = getattr(peft, name)(task_type="SEQ_CLS" if kind == "bert" else "CAUSAL_LM", target_modules=targets, **options, **more)
        return spread(peft.get_peft_model(self.base(kind), config)).eval()

    def test_peft_loads_what_is_saved(self):
        from peft import PeftModel

        worst = 0
        for kind, targets in TARGETS.items():
            for spec in [*TUNERS, *STARTS]:
                if kind == "gpt2" and spec.startswith(("loha", "lokr")):
                    continue
                self.call(kind, "--train", self.folder / "texts", "--projector", spec, "--target", "|".join(targets), "--lr", 0.01, "--steps", 12,
                          "--batch-size", BATCH, "--save", self.folder / "run", "--predict", self.folder / "logits", "--bias", "none")
                before = self.logits(self.base(kind))
                model = PeftModel.from_pretrained(self.base(kind), self.folder / "run").eval()
                off = self.off(kind, model)
                moved = (self.logits(model) - before).abs().max().item()
                print(f"saved   {kind:6} {spec:48} moved {moved:.1e}, off {off:.1e}")
                worst = max(worst, off)
                with self.subTest(kind=kind, spec=spec):
                    self.assertGreater(moved, 1e-3)
                    self.assertLess(off, 1e-5)
        print(f"saved   worst {worst:.1e}")

    def test_what_peft_saves_is_loaded(self):
        worst = 0
        for kind, targets, spec, tuner in self.cases():
            model = self.theirs(kind, targets, tuner)
            model.save_pretrained(self.folder / "adapter")
            self.call(kind, "--adapter", self.folder / "adapter", "--steps", 0, "--predict", self.folder / "logits")
            off = self.off(kind, model)
            print(f"loaded  {kind:6} {spec:48} off {off:.1e}")
            worst = max(worst, off)
            with self.subTest(kind=kind, spec=spec):
                self.assertLess(off, 1e-5)
        print(f"loaded  worst {worst:.1e}")

    def test_trains_as_peft(self):
        from safetensors.torch import load_file

        for kind, targets, spec, tuner in self.cases():
            if spec.startswith("adalora"):
                continue  # its training is recorded in tests/golden/peft_adalora.py
            model = self.theirs(kind, targets, tuner)
            model.save_pretrained(self.folder / "adapter")
            self.call(kind, "--train", self.folder / "texts", "--adapter", self.folder / "adapter", "--projector", spec, "--lr", 2e-3, "--steps", STEPS,
                      "--batch-size", BATCH, "--no-shuffle", "--no-dropout", "--schedule", "constant", "--optimizer", "adamw:weight_decay=0.1",
                      "--save", self.folder / "run")
            with open(self.folder / "run" / "log.csv", newline="") as file:
                ours = [float(row["loss"]) for row in csv.DictReader(file)]
            trained = [p for p in model.parameters() if p.requires_grad]
            # Ours decays matrices alone: the magnitudes and vectors of DoRA and VeRA are m x 1 among them, a head's bias is not.
            free = [p for name, p in model.named_parameters() if p.requires_grad and name.endswith("bias")]
            held = {id(p) for p in free}
            optimizer = torch.optim.AdamW([{"params": [p for p in trained if id(p) not in held]}, {"params": free, "weight_decay": 0}], lr=2e-3, weight_decay=0.1)
            losses = []
            for step in range(STEPS):
                rows = [(step * BATCH + i) % ROWS for i in range(BATCH)]
                ids, mask = self.ids[rows], self.mask[rows]
                labels = self.labels[rows] if kind == "bert" else ids.masked_fill(mask == 0, -100)
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
                optimizer.zero_grad(), loss.backward(), optimizer.step()
                losses.append(loss.item())
            apart = max(abs(a - b) for a, b in zip(ours, losses, strict=True))
            model.save_pretrained(self.folder / "theirs")
            a, b = (load_file(self.folder / name / "adapter_model.safetensors") for name in ("run", "theirs"))
            self.assertEqual(sorted(a), sorted(b))
            off = max(((a[k] - b[k]).norm() / b[k].norm()).item() for k in a)
            print(f"trained {kind:6} {spec:48} loss {losses[0]:.3f} to {losses[-1]:.3f}, off {apart:.1e}, factors {off:.1e}")
            with self.subTest(kind=kind, spec=spec):
                self.assertLess(apart, 1e-4)
                self.assertLess(off, 1e-3)


if __name__ == "__main__":
    unittest.main()
