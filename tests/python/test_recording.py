"""record: what it writes is what autograd adds to .grad, of frozen weights and of Conv1D too."""

import pathlib
import tempfile
import unittest

import torch
from common import Gpt2Task, ProjectedOptimizer, copy_of, needs
from gradview import record


@needs("transformers", "safetensors")
class Recording(unittest.TestCase):
    def test_gpt2_under_a_projected_optimizer(self):
        from safetensors.torch import load_file

        task = Gpt2Task()
        model, plain = task.model, copy_of(task.model)
        start = {name: p.detach().clone() for name, p in plain.named_parameters()}
        optimizer = ProjectedOptimizer(model, {r"c_attn|c_fc": "full"}, "sgd", lr=0.1)
        recorder = record(model, r"c_attn|c_fc")
        theirs = torch.optim.SGD([p for n, p in plain.named_parameters() if n in optimizer._by_name], lr=0.1)
        grads = []
        for batch in task.batches(3):
            for m, o in ((model, optimizer), (plain, theirs)):
                task.loss(m, batch).backward()
                if m is plain:
                    grads.append({n: p.grad.t().clone() for n, p in m.named_parameters() if n in recorder.weights})
                o.step(), o.zero_grad(), m.zero_grad()
            recorder.step()
        with tempfile.TemporaryDirectory() as folder:
            files = [str(pathlib.Path(folder) / name) for name in ("W", "G")]
            recorder.save(*files)
            weights, gradients = map(load_file, files)
        self.assertEqual(len(weights), 4)
        for name, w in weights.items():
            self.assertTrue(torch.equal(w, start[name].t()))
            for step, expected in enumerate(grads):
                found = gradients[f"{name}.delta"][step].t() @ gradients[f"{name}.x"][step]
                torch.testing.assert_close(found, expected[name], rtol=1e-10, atol=1e-12)

    def test_a_weight_of_another_kind_of_layer_is_refused(self):
        with self.assertRaisesRegex(ValueError, "another kind of layer"):
            record(Gpt2Task().model, "wte")
        with self.assertRaisesRegex(ValueError, "matches"):
            record(Gpt2Task().model, "nothing")


if __name__ == "__main__":
    unittest.main()
