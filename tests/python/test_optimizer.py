"""What ProjectedOptimizer promises, without any other package than torch."""

import copy
import gc
import io
import unittest
import warnings

import torch
from common import MlpTask, ProjectedOptimizer, train
from gradview import NotFiniteError
from torch import nn
from torch.utils.checkpoint import checkpoint

SPECS = [  # one for each method, and starts that are not zero
    "full", "bitfit", "lora:rank=3,alpha=5", "lora:rank=3,init=pissa", "lora:rank=3,init=symmetric",
    "lora:rank=2,init=lora_ga", "lora_fa:rank=3", "relora:rank=2,refresh_every=2", "dora:rank=3,alpha=5",
    "vera:rank=5", "loha:rank=2", "lokr:rank=2", "adalora:rank=3,tinit=0,tfinal=1,deltaT=1", "random:rank=2",
    "random:rank=2,refresh_every=3", "additive:rank=2", "galore:rank=3,refresh_every=2",
    "galore:rank=3,refresh_every=2,error_feedback=true", "fira:rank=3,refresh_every=2", "ldadam:rank=3",
    "apollo:rank=3,refresh_every=2", "flora:rank=3,beta1=0.5,refresh_every=2",
]  # fmt: skip
ALL = "^(0|2|4)$"
TIGHT = dict(rtol=1e-12, atol=1e-13)  # a few hundred roundings of double


def make(model, spec="lora:rank=3", **more):
    return ProjectedOptimizer(model, {more.pop("pattern", ALL): spec}, **{"lr": 1e-2, "steps": 8, **more})


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b))


class Steps(unittest.TestCase):
    def setUp(self):
        self.task = MlpTask()
        self.batches = self.task.batches(8)

    def models(self, count=2):
        return [copy.deepcopy(self.task.model) for _ in range(count)]

    def backward(self, model, batch):
        self.task.loss(model, batch).backward()

    def test_every_method_moves_the_weights_where_they_are(self):
        for spec in SPECS:
            with self.subTest(spec):
                (model,) = self.models(1)
                addresses = [p.data_ptr() for p in model.parameters()]
                optimizer = make(model, spec)
                before = weights(model)
                train(self.task, model, optimizer, self.batches)
                self.assertEqual(addresses, [p.data_ptr() for p in model.parameters()])
                self.assertTrue(all(p.isfinite().all() for p in model.parameters()))
                moved = [not torch.equal(a, b) for a, b in zip(before, weights(model))]
                self.assertEqual(moved, [spec != "bitfit", False] * 3)  # biases are frozen

    def test_a_resumed_run_is_the_uninterrupted_one(self):
        for spec in SPECS:
            for rest in ("frozen", "full"):
                with self.subTest(spec, rest=rest):
                    model, other = self.models()
                    optimizer = make(model, spec, rest=rest)
                    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
                    for batch in self.batches[:3]:
                        train(self.task, model, optimizer, [batch])
                        scheduler.step()
                    file = io.BytesIO()
                    torch.save([optimizer.state_dict(), scheduler.state_dict(), model.state_dict()], file)
                    file.seek(0)
                    saved, schedule, trained = torch.load(file, weights_only=True)
                    again = make(other, spec, rest=rest)
                    following = torch.optim.lr_scheduler.StepLR(again, 2, 0.5)
                    other.load_state_dict(trained)
                    again.load_state_dict(saved)
                    following.load_state_dict(schedule)
                    for batch in self.batches[3:]:
                        for m, o, s in ((model, optimizer, scheduler), (other, again, following)):
                            train(self.task, m, o, [batch])
                            s.step()
                    self.assertTrue(same(weights(model), weights(other)))

    def test_dropped_gradients_leave_no_trace(self):
        for spec in SPECS:
            with self.subTest(spec):
                model, other = self.models()
                plain, dropping = make(model, spec), make(other, spec)
                for batch in self.batches[:4]:
                    self.backward(other, self.batches[7])
                    dropping.zero_grad()
                    for m, o in ((model, plain), (other, dropping)):
                        train(self.task, m, o, [batch])
                self.assertTrue(same(weights(model), weights(other)))

    def test_micro_batches_add_up(self):
        x, y = self.batches[1]
        for spec in SPECS:
            with self.subTest(spec):
                model, other = self.models()
                whole, parts = make(model, spec, optimizer="sgd"), make(other, spec, optimizer="sgd")
                for _ in range(3):
                    self.backward(model, (x, y))
                    whole.step()
                    for k in (slice(0, 1), slice(1, 4)):  # of unequal size
                        (self.task.loss(other, (x[k], y[k])) * (len(x[k]) / len(x))).backward()
                    parts.step()
                for a, b in zip(weights(model), weights(other)):
                    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)  # sign-like rules amplify

    def test_a_first_layer_behind_frozen_inputs_is_trained(self):
        (model,) = self.models(1)
        optimizer = make(model, pattern="^0$")
        before = weights(model)
        train(self.task, model, optimizer, self.batches[:2])
        self.assertFalse(torch.equal(before[0], model[0].weight))
        self.assertTrue(same(before[1:], weights(model)[1:]))

    def test_evaluation_collects_nothing(self):
        model, other = self.models()
        optimizer, plain = make(model), make(other)
        for batch in self.batches[:3]:
            with torch.no_grad():
                self.assertFalse(model(batch[0]).requires_grad)
            model(batch[0])  # and one without a backward pass
            train(self.task, model, optimizer, [batch])
            train(self.task, other, plain, [batch])
        self.assertTrue(same(weights(model), weights(other)))

    def test_learning_rates_are_read_from_the_groups(self):
        (model,) = self.models(1)
        optimizer = ProjectedOptimizer(model, {"^0$": "full", "^2$": "full"}, "sgd", lr=0.5)
        optimizer.param_groups[1]["lr"] = 0.0
        before = weights(model)
        self.backward(model, self.batches[0])
        optimizer.step()
        self.assertFalse(torch.equal(before[0], model[0].weight))
        self.assertTrue(torch.equal(before[2], model[2].weight))

    def test_schedulers_do_what_they_do_to_torch_optim(self):
        model, other = self.models()
        optimizer = make(model, "full", optimizer="adamw:weight_decay=0.01", rest="full")
        matrices = [p for p in other.parameters() if p.dim() > 1]
        vectors = [{"params": [p for p in other.parameters() if p.dim() < 2], "weight_decay": 0}]
        theirs = torch.optim.AdamW([{"params": matrices}, *vectors], lr=1e-2, weight_decay=0.01)
        schedules = [torch.optim.lr_scheduler.OneCycleLR(o, 0.02, total_steps=8, cycle_momentum=False)
                     for o in (optimizer, theirs)]  # fmt: skip
        for batch in self.batches:
            for m, o, s in zip((model, other), (optimizer, theirs), schedules):
                train(self.task, m, o, [batch])
                s.step()
        for a, b in zip(weights(model), weights(other)):
            torch.testing.assert_close(a, b, **TIGHT)

    def test_clipping_is_that_of_torch_where_factors_are_weights(self):
        model, other = self.models()
        optimizer = make(model, "full", optimizer="sgd", rest="full")
        theirs = torch.optim.SGD(other.parameters(), lr=1e-2)
        for batch in self.batches[:3]:
            self.backward(model, batch)
            self.backward(other, batch)
            norm = optimizer.clip_grad_norm_(0.3)
            expected = nn.utils.clip_grad_norm_(other.parameters(), 0.3)
            self.assertGreater(norm, 0.3)
            torch.testing.assert_close(norm.double(), expected, rtol=1e-6, atol=0)  # + 1e-6 in theirs
            optimizer.step(), theirs.step(), theirs.zero_grad()
        for a, b in zip(weights(model), weights(other)):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)

    def test_clipping_shrinks_every_method(self):
        for spec in SPECS:
            if spec == "bitfit":
                continue
            with self.subTest(spec):
                (model,) = self.models(1)
                optimizer = make(model, spec, optimizer="sgd")
                self.backward(model, self.batches[0])
                norm = optimizer.clip_grad_norm_(float("inf"))
                self.assertGreater(norm, 0)
                optimizer.clip_grad_norm_(norm / 4)
                again = optimizer.clip_grad_norm_(float("inf"))
                torch.testing.assert_close(again, norm / 4, rtol=1e-5, atol=0)

    def test_a_closure_is_called_with_gradients(self):
        model, other = self.models()
        optimizer, plain = make(model), make(other)
        batch = self.batches[0]

        def closure():
            optimizer.zero_grad()
            loss = self.task.loss(model, batch)
            loss.backward()
            return loss

        with torch.no_grad():
            loss = optimizer.step(closure)
        self.assertEqual(loss.item(), train(self.task, other, plain, [batch])[0])
        self.assertTrue(same(weights(model), weights(other)))

    def test_gradients_that_are_not_finite_move_nothing(self):
        for spec in SPECS:
            if spec == "bitfit":
                continue
            with self.subTest(spec):
                model, other = self.models()
                optimizer, plain = make(model, spec, rest="full"), make(other, spec, rest="full")
                train(self.task, model, optimizer, self.batches[:2])
                train(self.task, other, plain, self.batches[:2])
                before = weights(model)
                (self.task.loss(model, self.batches[2]) * float("nan")).backward()
                with self.assertRaisesRegex(NotFiniteError, r"gradient of \d\.\w+ is not finite"):
                    optimizer.step()
                self.assertTrue(same(before, weights(model)))
                optimizer.zero_grad()
                train(self.task, model, optimizer, self.batches[3:5])
                train(self.task, other, plain, self.batches[3:5])
                self.assertTrue(same(weights(model), weights(other)))

    def test_an_input_changed_in_place_is_an_error(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        make(model, pattern="1")
        h = model[0](torch.randn(3, 4))
        y = model[1](h)
        h.add_(1)
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            y.sum().backward()


class Models(unittest.TestCase):
    """Gradients of layers that are used in unusual ways: full against torch.optim.SGD."""

    def check(self, model, loss, pattern, tapped=True, steps=3):
        torch.manual_seed(1)
        model = model.double()
        other = copy.deepcopy(model)
        optimizer = ProjectedOptimizer(model, {pattern: "full"}, "sgd:momentum=0.5", lr=0.05, rest="full")
        self.assertTrue(all(s.tapped == tapped for s in optimizer._slots if s.group == 0))
        theirs = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.5)
        for step in range(steps):
            for m, o in ((model, optimizer), (other, theirs)):
                torch.manual_seed(step)
                loss(m).backward()
                o.step()
                o.zero_grad()
        for (name, a), b in zip(model.named_parameters(), other.parameters()):
            torch.testing.assert_close(a, b, msg=lambda text: f"{name}: {text}", **TIGHT)

    def test_a_module_called_twice_and_two_with_one_weight(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner, self.twice = nn.Linear(5, 7), nn.Linear(7, 7)
                self.head, self.tied = nn.Linear(7, 3, bias=False), nn.Linear(7, 3, bias=False)
                self.tied.weight = self.head.weight

            def forward(self, x):
                h = self.twice(input=self.inner(x)).relu_()
                return self.head(self.twice(h)) + self.tied(h)

        self.check(Net(), lambda m: m(torch.randn(4, 6, 5).double()).square().mean(), "inner|twice|head")

    def test_checkpointing(self):
        class Net(nn.Module):
            def __init__(self, reentrant):
                super().__init__()
                self.reentrant = reentrant
                self.first, self.block = nn.Linear(5, 6), nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

            def forward(self, x):
                return checkpoint(self.block, self.first(x), use_reentrant=self.reentrant)

        for reentrant in (False, True):
            self.check(Net(reentrant), lambda m: m(torch.randn(4, 5).double()).square().mean(), "first|block")

    def test_checkpointing_where_nothing_else_is_trained(self):
        block = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        x = torch.randn(4, 5).double()
        moved = []
        for wrap in (block, lambda x: checkpoint(block, x, use_reentrant=False)):
            model = block
            start = weights(model)
            optimizer = ProjectedOptimizer(model, {"0|2": "full"}, "sgd", lr=0.1)
            wrap(x).square().sum().backward()
            optimizer.step()
            optimizer.remove()
            moved.append(weights(model))
            for p, w in zip(model.parameters(), start):
                p.data.copy_(w)
        self.assertTrue(same(*moved))
        self.assertFalse(torch.equal(moved[0][0], start[0]))

    def test_embeddings_with_padding_and_a_tied_head(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens, self.places = nn.Embedding(11, 6, padding_idx=2), nn.Embedding(5, 6)
                self.head = nn.Linear(6, 11)
                self.head.weight = self.tokens.weight

            def forward(self, ids):
                return self.head(torch.tanh(self.tokens(ids) + self.places(torch.arange(5))))

        def loss(model):
            ids = torch.randint(11, (4, 5))
            return nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())

        self.check(Net(), loss, "tokens|places")

    def test_what_has_no_taps_comes_by_its_grad(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
                self.conv = nn.Conv2d(1, 3, 3)
                self.scale = nn.Parameter(torch.randn(8, 8))

            def forward(self, x):
                h, _ = self.attention(x @ self.scale, x, x)
                return self.conv(h[:, None])

        self.check(
            Net(), lambda m: m(torch.randn(2, 5, 8).double()).square().mean(), "attention|conv|scale", tapped=False
        )

    def test_an_embedding_of_low_rank_is_its_outer_product(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(30, 6), nn.Linear(6, 30)).double()
        start = model[0].weight.detach().clone()
        u, v = torch.zeros(30, 2, dtype=torch.double), torch.randn(2, 6, dtype=torch.double)
        optimizer = ProjectedOptimizer(model, {"^0$": "lora:rank=2,alpha=3"}, "sgd", lr=0.3)
        optimizer.set_factors("0", v=v)
        u.requires_grad_(), v.requires_grad_()
        reference = torch.optim.SGD([u, v], lr=0.3)
        for step in range(4):
            ids = torch.randint(30, (5, 7), generator=torch.Generator().manual_seed(step))
            logits = model[1].__class__.forward(model[1], (start + 1.5 * u @ v)[ids])
            nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
            reference.step(), reference.zero_grad()
            nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
            optimizer.step()
        torch.testing.assert_close(model[0].weight.detach(), (start + 1.5 * u @ v).detach(), **TIGHT)
        torch.testing.assert_close(optimizer.factors("0")["u"], u.detach(), **TIGHT)


class Interface(unittest.TestCase):
    def net(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4))

    def test_patterns_first_match_wins_and_none_is_an_error_with_near_names(self):
        model = nn.ModuleDict({"fc1": nn.Linear(3, 4), "fc2": nn.Linear(4, 5)})
        optimizer = ProjectedOptimizer(model, {"fc1": "lora:rank=2", "fc": "full"})
        self.assertEqual([g["projector"] for g in optimizer.param_groups], ["lora:rank=2", "full"])
        self.assertEqual([len(g["params"]) for g in optimizer.param_groups], [1, 1])
        optimizer.remove()
        with self.assertRaisesRegex(ValueError, "'fx1' matches no matrix.*near are 'fc1'"):
            ProjectedOptimizer(model, {"fx1": "lora"})
        with self.assertRaisesRegex(ValueError, "'fc1' matches no matrix that an earlier"):
            ProjectedOptimizer(model, {"fc": "lora", "fc1": "full"})

    def test_bad_specs_are_the_librarys_errors_and_leave_the_model_alone(self):
        model = self.net()
        for call in (
            lambda: ProjectedOptimizer(model, {"0": "lorra"}),
            lambda: ProjectedOptimizer(model, {"0": "lora:rnk=2"}),
            lambda: ProjectedOptimizer(model, {"0": "lora"}, "adan"),
            lambda: ProjectedOptimizer(model, {"0": "lora"}, lr=-1.0),
            lambda: ProjectedOptimizer(model, {"0": "lora"}, rest="some"),
            lambda: ProjectedOptimizer(model, {}),
        ):
            with self.assertRaises(ValueError) as caught:
                call()
            self.assertNotIn("\n", str(caught.exception))
            self.assertTrue(all(p.requires_grad for p in model.parameters()))
            self.assertFalse(any(m._forward_hooks for m in model.modules()))
        ProjectedOptimizer(model, {"0": "lora"})

    def test_devices_and_types(self):
        with self.assertRaisesRegex(ValueError, "on meta"):
            ProjectedOptimizer(nn.Linear(3, 3, device="meta"), {"": "lora"})
        with self.assertRaisesRegex(ValueError, "half='master'"):
            ProjectedOptimizer(nn.Linear(3, 3).bfloat16(), {"": "lora"})
        with self.assertRaisesRegex(ValueError, "float32 and float64"):
            ProjectedOptimizer(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double()), {"": "lora"})
        model = nn.Linear(4, 3)
        model.weight.data = torch.randn(4, 3).t()
        with self.assertRaisesRegex(ValueError, "contiguous"):
            ProjectedOptimizer(model, {"": "lora"})

    def test_bfloat16_with_a_master(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)).bfloat16()
        master = copy.deepcopy(model).float()
        optimizer = ProjectedOptimizer(model, {"0": "full"}, "sgd", lr=1e-3, half="master")
        start = model[0].weight.clone()
        for step in range(50):
            x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
            y = model(x.bfloat16())
            (delta,) = torch.autograd.grad(y.square().sum(), y, retain_graph=True)
            expected = (delta @ model[1].weight).float().t() @ x.bfloat16().float()
            y.square().sum().backward()
            optimizer.step()
            master[0].weight.data -= 1e-3 * expected
            self.assertTrue(torch.equal(model[0].weight, optimizer._slots[0].matrix.bfloat16()))
        torch.testing.assert_close(optimizer._slots[0].matrix, master[0].weight.detach(), rtol=1e-5, atol=1e-5)
        self.assertFalse(torch.equal(start, model[0].weight))
        other = ProjectedOptimizer(copy.deepcopy(model), {"0": "full"}, "sgd", lr=1e-3, half="master")
        other.load_state_dict(optimizer.state_dict())
        self.assertTrue(torch.equal(other._slots[0].matrix, optimizer._slots[0].matrix))

    def test_removal_gives_the_model_back(self):
        for remove in (lambda o: o.remove(), lambda o: None):
            model = self.net()
            model[1].bias.requires_grad_(False)
            wanted = [p.requires_grad for p in model.parameters()]
            optimizer = ProjectedOptimizer(model, {"0|2": "lora:rank=2"})
            self.assertFalse(any(p.requires_grad for p in model.parameters()))
            with self.assertRaisesRegex(ValueError, "another optimizer"):
                ProjectedOptimizer(model, {"0": "full"})
            remove(optimizer)
            del optimizer
            gc.collect()
            self.assertEqual(wanted, [p.requires_grad for p in model.parameters()])
            self.assertFalse(any(m._forward_hooks for m in model.modules()))
            model(torch.randn(2, 6)).sum().backward()
            self.assertIsNotNone(model[0].weight.grad)
            ProjectedOptimizer(model, {"0": "full"}).remove()

    def test_a_graph_that_outlives_the_optimizer_goes_backward(self):
        model = self.net()
        optimizer = ProjectedOptimizer(model, {"0": "lora:rank=2"})
        loss = model(torch.randn(2, 6)).sum()
        optimizer.remove()
        loss.backward()
        with self.assertRaisesRegex(RuntimeError, "removed"):
            optimizer.step()

    def test_weights_that_were_replaced_are_noticed(self):
        model = self.net()
        optimizer = ProjectedOptimizer(model, {"0": "lora:rank=2"})
        model.double()
        with self.assertRaisesRegex(RuntimeError, "memory of 0.weight is another now"):
            model(torch.randn(2, 6).double()).sum().backward()
        with self.assertRaisesRegex(RuntimeError, "memory of 0.weight is another now"):
            optimizer.step()

    def test_factors_are_read_and_set_and_the_weight_follows(self):
        model = self.net().double()
        start = model[0].weight.detach().clone()
        optimizer = ProjectedOptimizer(model, {"^0$": "lora:rank=2,alpha=3", "^2$": "dora:rank=2"})
        u, v = torch.randn(5, 2).double(), torch.randn(2, 6).double()
        self.assertEqual({k: tuple(t.shape) for k, t in optimizer.factors("0").items()}, {"u": (5, 2), "v": (2, 6)})
        self.assertEqual(set(optimizer.factors("2")), {"u", "v", "magnitude"})
        optimizer.set_factors("0.weight", u=u, v=v)
        torch.testing.assert_close(model[0].weight.detach(), start + 1.5 * u @ v, **TIGHT)
        self.assertTrue(torch.equal(optimizer.factors("0")["u"], u))
        magnitude = optimizer.factors("2")["magnitude"]
        before = model[2].weight.detach().clone()
        optimizer.set_factors("2", magnitude=2 * magnitude)
        torch.testing.assert_close(model[2].weight.detach(), 2 * before, **TIGHT)
        with self.assertRaisesRegex(KeyError, "no factor 'w'; there are u, v"):
            optimizer.set_factors("0", w=u)
        with self.assertRaisesRegex(ValueError, "expected"):
            optimizer.set_factors("0", u=v)
        with self.assertRaisesRegex(ValueError, "not finite"):
            optimizer.set_factors("0", u=u * float("inf"))
        with self.assertRaisesRegex(KeyError, "no trained matrix 'O'"):
            optimizer.factors("O")

    def test_methods_that_start_from_a_gradient_say_so(self):
        model = self.net()
        optimizer = ProjectedOptimizer(model, {"0": "lora:rank=2,init=lora_ga"})
        with self.assertRaisesRegex(ValueError, "from the first gradient"):
            optimizer.set_factors("0", u=torch.ones(5, 2))
        model(torch.randn(3, 6)).square().sum().backward()
        optimizer.step()
        optimizer.set_factors("0", u=torch.ones(5, 2))
        self.assertTrue(torch.equal(optimizer.factors("0")["u"], torch.ones(5, 2)))

    def test_state_of_another_optimizer_is_refused(self):
        saved = ProjectedOptimizer(self.net(), {"0": "lora:rank=2"}).state_dict()
        for other, message in (
            (ProjectedOptimizer(self.net(), {"0": "lora:rank=3"}), "projector is 'lora:rank=2' there"),
            (ProjectedOptimizer(self.net(), {"0": "lora:rank=2"}, seed=1), "seed is 0 there, 1 here"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                other.load_state_dict(saved)
        broken = {**saved, "state": {k: v for k, v in saved["state"].items() if k != "0.weight.u"}}
        with self.assertRaisesRegex(ValueError, "0.weight.u is missing"):
            ProjectedOptimizer(self.net(), {"0": "lora:rank=2"}).load_state_dict(broken)
        with self.assertRaises(NotImplementedError):
            other.add_param_group({"params": []})

    def test_a_weight_that_no_gradient_reaches_is_warned_of_once(self):
        model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        optimizer = ProjectedOptimizer(model, {"0|1": "lora:rank=1"})
        for expected in (1, 0):
            model[1](torch.nn.functional.linear(torch.randn(2, 3), model[0].weight)).sum().backward()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                optimizer.step()
            self.assertEqual(sum("no gradient has reached 0.weight:" in str(w.message) for w in caught), expected)

    def test_a_copy_of_the_model_is_on_its_own(self):
        model = self.net()
        optimizer = ProjectedOptimizer(model, {"0|2": "lora:rank=2"})
        before = weights(model)
        other = copy.deepcopy(model)
        for p in other.parameters():
            p.requires_grad_()
        other(torch.randn(2, 6)).square().sum().backward()
        self.assertIsNotNone(other[0].weight.grad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
        self.assertTrue(same(before, weights(model)))

    def test_nothing_but_torch_is_imported(self):
        import subprocess
        import sys

        code = (
            "import torch, sys; before = set(sys.modules); import gradview; "
            "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names))"
        )
        from common import PYTHON

        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=PYTHON
        ).stdout
        self.assertEqual(found.strip(), "['gradview']")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    unittest.main()
