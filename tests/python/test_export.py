"""export_peft: the untouched base with the adapter, as PEFT loads it, computes what our weights compute."""

import json
import pathlib
import tempfile
import unittest
import warnings

import torch
from common import BertTask, Gpt2Task, MlpTask, ProjectedOptimizer, copy_of, needs, pattern, train

SPECS = {
    "lora:rank=4,alpha=10": "LORA",
    "lora:rank=4,alpha=10,scaling=rslora": "LORA",
    "lora:rank=3,alpha=5,init=pissa": "LORA",
    "lora:rank=3,alpha=5,init=symmetric,scaling=rslora": "LORA",
    "lora:rank=3,init=lora_ga": "LORA",
    "lora:rank=15,alpha=30": "LORA",  # capped where a matrix is smaller
    "lora_fa:rank=3,alpha=4": "LORA",
    "dora:rank=4,alpha=10": "LORA",
    "adalora:rank=4,alpha=6,tinit=0,tfinal=2,deltaT=1": "ADALORA",
    "loha:rank=3,alpha=5": "LOHA",
    "lokr:rank=2,alpha=5": "LOKR",
    "lokr:rank=2,alpha=5,decompose=both": "LOKR",
    "lokr:rank=2,alpha=5,decompose=none": "LOKR",
    "vera:rank=8": "VERA",
}


@needs("peft", "transformers", "safetensors")
class Export(unittest.TestCase):
    def outputs(self, task, model, batch):
        with torch.no_grad():
            if isinstance(task, MlpTask):
                return model(batch[0])
            return model(input_ids=batch[0] if isinstance(batch, tuple) else batch).logits

    def check(self, kind, patterns, **more):
        from peft import PeftModel

        task = kind(torch.float32)
        base, batches = copy_of(task.model), task.batches(8)
        optimizer = ProjectedOptimizer(task.model, patterns, lr=1e-2, steps=8, **more)
        train(task, task.model, optimizer, batches)
        before = self.outputs(task, base, batches[0])
        ours = self.outputs(task, task.model, batches[0])
        with tempfile.TemporaryDirectory() as folder:
            optimizer.export_peft(folder)
            config = json.loads((pathlib.Path(folder) / "adapter_config.json").read_text())
            loaded = PeftModel.from_pretrained(base, folder).eval()
            found = (self.outputs(task, loaded, batches[0]) - ours).abs().max().item()
            merged = copy_of(loaded).merge_and_unload()
            found = max(found, (self.outputs(task, merged, batches[0]) - ours).abs().max().item())
        moved = (ours - before).abs().max().item()
        print(f"{kind.__name__:9} {', '.join(patterns.values()):50} moved {moved:.1e}, off {found:.1e}")
        self.assertGreater(moved, 1e-3)
        self.assertLess(found, 1e-5)
        return config

    def test_every_method_on_linear_layers(self):
        for spec, kind in SPECS.items():
            with self.subTest(spec):
                config = self.check(MlpTask, {pattern(["0", "2", "4"]): spec})
                self.assertEqual(config["peft_type"], kind)

    def test_transformers(self):
        for spec, method in SPECS.items():
            for kind in (BertTask, Gpt2Task):
                if kind is Gpt2Task and method in ("LOHA", "LOKR"):
                    continue  # PEFT has no Conv1D there
                with self.subTest(spec, kind=kind.__name__):
                    self.check(kind, {pattern(kind.matrices): spec})

    def test_embeddings_and_a_head_that_is_trained_whole(self):
        config = self.check(
            BertTask, {"word_embeddings": "lora:rank=3,alpha=5", "query": "lora:rank=2,alpha=4", "classifier": "full"}
        )
        self.assertEqual(config["modules_to_save"], ["classifier"])
        self.assertEqual(config["r"], 2)

    def test_what_peft_has_not_is_refused(self):
        for patterns, message in (
            ({"0": "random:rank=2"}, "PEFT has no random"),
            ({"0": "lora:rank=2", "2": "loha:rank=2"}, "one method"),
            ({"0": "full"}, "there is no adapter"),
        ):
            model = MlpTask(torch.float32).model
            optimizer = ProjectedOptimizer(model, patterns)
            with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(ValueError, message):
                optimizer.export_peft(folder)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    unittest.main()
