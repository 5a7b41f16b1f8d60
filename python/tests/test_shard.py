# SPDX-License-Identifier: Apache-2.0
"""The package on one rank, beside plain PyTorch."""

import contextlib
import copy
import tempfile
import unittest

import libzero
import models
import torch
from models import Backwards, Block, Decoder, batches, make

ADAMW = dict(lr=3e-3, weight_decay=0.05)
STEPS = 6


def train(model, optimizer, data, pieces=1):
    """pieces: micro-steps of a step."""
    sharded = isinstance(optimizer, libzero.Optimizer)
    no_sync = (lambda: libzero.no_sync(model)) if sharded else contextlib.nullcontext
    return models.train(model, optimizer, [ids.chunk(pieces) for ids in data], no_sync)


class Case(unittest.TestCase):
    def tearDown(self):
        for model in self.sharded:
            libzero.close(model)

    def setUp(self):
        self.sharded = []

    def shard(self, model, optimizer=None, **options):
        options = {"persist_bytes": 0, **options}
        model, optimizer = libzero.shard(model, optimizer, **options)
        self.sharded.append(model)
        return model, optimizer

    def equal(self, expected, found, within=2e-6):
        self.assertEqual(len(expected), len(found))
        for a, b in zip(expected, found):
            self.assertLessEqual(abs(a - b), within * max(1, abs(a)), f"{expected} and {found}")

    def compare(self, kind=Decoder, options=None, rule=torch.optim.AdamW, arguments=None, pieces=1, prepare=None,
                **how):
        """Trains with and without libzero: equal losses, parameters and norms of gradients."""
        arguments = arguments or ADAMW
        plain, model = make(kind, **(options or {})), make(kind, **(options or {}))
        if prepare:
            prepare(plain), prepare(model)
        data = batches(STEPS)
        expected = train(plain, rule([p for p in plain.parameters() if p.requires_grad], **arguments), data, pieces)
        trainable = [p for p in model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in trainable]
        model, optimizer = self.shard(model, rule(trainable, **arguments), micro_steps=pieces, **how)
        found = train(model, optimizer, data, pieces)
        self.equal(expected, found)
        state = model.state_dict()
        self.assertEqual(list(plain.state_dict()), list(state))
        for name, value in plain.state_dict().items():
            self.assertLessEqual((state[name] - value).abs().max().item(), 2e-4, name)
        for value, name in zip(before, (n for n, p in model.named_parameters() if p.requires_grad)):
            self.assertFalse(torch.equal(value, state[name]), f"{name} was not trained")
        return model, optimizer


class Training(Case):
    def test_stages_and_offload_have_the_same_bits(self):
        results = []
        for how in ({"stage": 0}, {"stage": 1}, {"stage": 2}, {"stage": 3}, {"offload": "host"}, {"window": 4},
                    {"offload": "nvme", "nvme_path": self.folder()}):
            model, _ = self.compare(**how)
            results.append(model.state_dict())
        for state in results[1:]:
            for name, value in results[0].items():
                self.assertTrue(torch.equal(state[name], value), name)

    def folder(self):
        made = tempfile.TemporaryDirectory(dir=".")
        self.addCleanup(made.cleanup)
        return made.name

    def test_untied(self):
        self.compare(options={"tied": False})

    def test_accumulation(self):
        self.compare(pieces=2)

    def test_sgd(self):
        self.compare(rule=torch.optim.SGD, arguments={"lr": 0.2, "momentum": 0.9})

    def test_adam(self):
        self.compare(rule=torch.optim.Adam, arguments={"lr": 3e-3, "betas": (0.8, 0.9)})

    def test_checkpointed_blocks(self):
        self.compare(options={"checkpoints": "block"})

    def test_reentrant_checkpoints(self):
        self.compare(options={"checkpoints": "reentrant"})

    def test_several_blocks_in_a_checkpoint(self):
        self.compare(options={"checkpoints": "all"}, example=batches(1)[0], window=4)

    def test_another_order(self):
        self.compare(kind=Backwards, example=(batches(1)[0],))

    def test_modules_used_twice(self):
        self.compare(options={"twice": True}, example={"ids": batches(1)[0]})

    def test_each_linear_a_unit(self):
        self.compare(units=[torch.nn.LayerNorm, torch.nn.MultiheadAttention, torch.nn.Linear])

    def test_units_by_size_and_by_name(self):
        self.compare(units=40000)
        self.compare(units=["blocks.0", "blocks.1", "blocks.2"])
        self.compare(units=lambda name, module: isinstance(module, Block))

    def test_frozen_layers(self):
        def freeze(model):
            for part in (model.tokens, model.positions, model.blocks[0], model.blocks[1].attention):
                part.requires_grad_(False)
        self.compare(options={"tied": False}, prepare=freeze)

    def test_a_recording_changes_nothing(self):
        model = make()
        before = copy.deepcopy(model.state_dict())
        random = torch.random.get_rng_state()
        model, _ = self.shard(model, torch.optim.AdamW(model.parameters()), example=batches(1)[0])
        self.assertTrue(torch.equal(torch.random.get_rng_state(), random))
        for name, value in model.state_dict().items():
            self.assertTrue(torch.equal(value, before[name]), name)

    def test_bf16_keeps_master_weights(self):
        data = batches(1) * 30
        model = make().bfloat16()
        model, optimizer = self.shard(model, torch.optim.AdamW(model.parameters(), lr=1e-5))
        before = model.state_dict()
        train(model, optimizer, data)
        changed = sum((model.state_dict()[n] != v).sum().item() for n, v in before.items() if v.is_floating_point())
        self.assertGreater(changed, 0)  # steps smaller than bf16's last place add up
        plain, (other, updates) = make(), self.shard(*with_optimizer(make().bfloat16(), **ADAMW))
        expected = train(plain, torch.optim.AdamW(plain.parameters(), **ADAMW), batches(STEPS))
        self.equal(expected, train(other, updates, batches(STEPS)), 0.05)

    def test_groups_and_a_scheduler(self):
        def groups(model):
            return [{"params": [p for p in model.parameters() if p.dim() > 1]},
                    {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0, "lr": 1e-3}]
        losses = []
        for sharded in (False, True):
            model = make()
            optimizer = torch.optim.AdamW(groups(model), **ADAMW)
            if sharded:
                model, optimizer = self.shard(model, optimizer)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
            found = []
            for ids in batches(STEPS):
                found += train(model, optimizer, [ids])
                scheduler.step()
            losses.append(found)
        self.equal(*losses)

    def test_clip(self):
        plain = make()
        reference = torch.optim.SGD(plain.parameters(), lr=0.5)
        model, optimizer = self.shard(*with_optimizer(make(), torch.optim.SGD, lr=0.5), clip=0.3)
        for ids in batches(STEPS):
            expected = plain(ids)
            expected.backward()
            norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.3)
            reference.step(), reference.zero_grad()
            self.equal([expected.item()], train(model, optimizer, [ids]))
            self.assertAlmostEqual(norm.item(), optimizer.grad_norm, places=5)

    def test_evaluation(self):
        plain = make()
        model, optimizer = self.shard(*with_optimizer(make(), **ADAMW))
        for ids in batches(3):
            with torch.no_grad():
                self.equal([plain(ids).item()] * 2, [model(ids).item(), model(ids).item()])
            train(model, optimizer, [ids])
            plain.load_state_dict(model.state_dict())
        model.eval()
        with torch.inference_mode():
            model(batches(1)[0])

    def test_a_frozen_model(self):
        plain, model = make(), make().requires_grad_(False)
        model, optimizer = self.shard(model)
        self.assertIsNone(optimizer)
        self.equal([plain(batches(1)[0]).item()], [model(batches(1)[0]).item()])

    def test_two_models_in_one_loss(self):
        def losses(shard):
            pair = [make(kind=torch.nn.Linear, seed=s, in_features=8, out_features=8) for s in (1, 2)]
            pair = [shard(*with_optimizer(model, torch.optim.SGD, lr=0.1)) for model in pair]
            found = []
            for i in range(STEPS):
                x = torch.linspace(-1, 1, 8 * 3).view(3, 8) + i
                loss = pair[1][0](pair[0][0](x).tanh()).square().mean()
                loss.backward()
                for _, optimizer in pair:
                    optimizer.step()
                    optimizer.zero_grad()
                found.append(loss.item())
            return found
        self.equal(losses(lambda model, optimizer: (model, optimizer)), losses(self.shard))

    def test_save_and_load(self):
        folder = self.folder()
        data = batches(2 * STEPS)
        whole = train(*self.shard(*with_optimizer(make(), **ADAMW)), data)
        model, optimizer = self.shard(*with_optimizer(make(), **ADAMW), save=True)
        self.equal(whole[:STEPS], train(model, optimizer, data[:STEPS]), 0)
        path = libzero.save(model, folder, extra={"epoch": 3})
        self.assertTrue(path.endswith(f"step-{STEPS}"))
        model, optimizer = self.shard(*with_optimizer(make(seed=6), **ADAMW), stage=1)
        self.assertEqual(libzero.load(model, folder), (STEPS, {"epoch": 3}))
        self.equal(whole[STEPS:], train(model, optimizer, data[STEPS:]), 0)

    def test_weights_from_a_file(self):
        from safetensors.torch import save_file
        plain = make(tied=False)
        path = f"{self.folder()}/model.safetensors"
        save_file(plain.state_dict(), path)
        with libzero.meta_parameters():
            model = make(tied=False, seed=9)
        self.assertTrue(all(p.device.type == "meta" for p in model.parameters()))
        model, optimizer = self.shard(*with_optimizer(model, **ADAMW), weights=path)
        self.equal(train(plain, torch.optim.AdamW(plain.parameters(), **ADAMW), batches(STEPS)),
                   train(model, optimizer, batches(STEPS)))

    def test_forecast_is_what_is_measured(self):
        for how in ({"stage": 1}, {"stage": 3}, {"stage": 3, "offload": "host"}):
            model, optimizer = self.shard(*with_optimizer(make(), **ADAMW), **how)
            train(model, optimizer, batches(2))
            forecast, measured = libzero.memory(model)
            self.assertEqual(forecast, measured)
            self.assertIn("blocks.0", libzero.explain(model))


def with_optimizer(model, rule=torch.optim.AdamW, **arguments):
    return model, rule(model.parameters(), **arguments)


class Misuse(Case):
    def refused(self, words, call, *arguments, **named):
        with self.assertRaises(libzero.Error) as caught:
            call(*arguments, **named)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def sharded_model(self, **how):
        return self.shard(*with_optimizer(make(), **ADAMW), **how)

    def test_arguments(self):
        model = make()
        adamw = torch.optim.AdamW(model.parameters())
        self.refused(["stage"], libzero.shard, model, adamw, stage=4)
        self.refused(["window"], libzero.shard, model, adamw, window=-1)
        self.refused(["offload", "'disk'"], libzero.shard, model, adamw, offload="disk")
        self.refused(["optimizer"], libzero.shard, model)
        self.refused(["RMSprop"], libzero.shard, model, torch.optim.RMSprop(model.parameters()))
        self.refused(["amsgrad"], libzero.shard, model, torch.optim.AdamW(model.parameters(), amsgrad=True))
        self.refused(["does not have"], libzero.shard, model, torch.optim.AdamW(model.blocks.parameters()))
        self.refused(["does not have"], libzero.shard, model.blocks, adamw)
        self.refused(["Unknown"], libzero.shard, model, adamw, units=["Unknown"])
        self.refused(["micro-step"], self.micro_step_too_many)
        self.refused(["float64"], libzero.shard, *with_optimizer(make().double()))
        train(model, torch.optim.AdamW(model.parameters()), batches(1))  # a refused model stays as it was

    def micro_step_too_many(self):
        model, _ = self.sharded_model(micro_steps=1)
        with libzero.no_sync(model):
            model(batches(1)[0]).backward()

    def test_twice(self):
        model, optimizer = self.sharded_model()
        self.refused(["already"], libzero.shard, model, torch.optim.AdamW(model.parameters()))
        self.refused(["copied"], copy.deepcopy, model)

    def test_order_of_calls(self):
        model, optimizer = self.sharded_model()
        ids = batches(1)[0]
        self.refused(["zero_step", "micro-step"], optimizer.step)
        model(ids)
        self.refused(["no backward pass", "no_grad"], model, ids)
        model, optimizer = self.sharded_model()
        loss = model(ids)
        self.refused(["loss.backward"], optimizer.step)
        loss.backward()
        self.refused(["zero_step"], model, ids)
        model, optimizer = self.sharded_model()
        self.refused(["call the model itself"], model.blocks[0], torch.zeros(1, 4, models.WIDTH))

    def test_a_second_backward_pass(self):
        model, optimizer = self.sharded_model()
        loss = model(batches(1)[0])
        loss.backward(retain_graph=True)
        self.refused(["has ended"], loss.backward)

    def test_order_of_modules(self):
        model, _ = self.shard(*with_optimizer(make(Backwards), **ADAMW))
        self.refused(["'tokens'", "example="], lambda: model(batches(1)[0]).backward())
        model, _ = self.shard(*with_optimizer(make(twice=True), **ADAMW))
        self.refused(["'blocks.0'", "example="], model, batches(1)[0])

    def test_moved_and_replaced_parameters(self):
        model, _ = self.sharded_model()
        model.double()
        self.refused(["shard()", "no longer"], model, batches(1)[0])

    def test_groups_that_change(self):
        model, optimizer = self.sharded_model()
        model(batches(1)[0]).backward()
        optimizer.param_groups[0]["weight_decay"] = 0.5
        self.refused(["weight_decay", "only lr"], optimizer.step)

    def test_own_parameters_around_units(self):
        class Around(Decoder):
            def __init__(self):
                super().__init__()
                self.scale = torch.nn.Parameter(torch.ones(1))
        self.refused(["of its own", "blocks.0"], libzero.shard, *with_optimizer(make(Around)))

    def test_weights(self):
        with libzero.meta_parameters():
            model = make()
        self.refused(["meta", "weights="], libzero.shard, *with_optimizer(model))
        self.refused(["nowhere"], libzero.shard, *with_optimizer(model), weights="nowhere")

    def test_a_refused_model_keeps_its_values(self):
        from safetensors.torch import save_file
        model = make(tied=False)
        before = copy.deepcopy(model.state_dict())
        with tempfile.TemporaryDirectory(dir=".") as folder:
            save_file({n: v for n, v in before.items() if not n.startswith("head")}, f"{folder}/some.safetensors")
            self.refused(["head.weight"], libzero.shard, *with_optimizer(model, **ADAMW),
                         weights=f"{folder}/some.safetensors")
        adamw = torch.optim.AdamW([{"params": model.head.parameters(), "lr": 0.0},
                                   {"params": [p for n, p in model.named_parameters() if not n.startswith("head")]}])
        self.refused(["learning rate 0"], libzero.shard, model, adamw)
        for name, value in model.state_dict().items():
            self.assertTrue(torch.equal(value, before[name]), name)

    def test_saves_are_alike(self):
        model, optimizer = self.sharded_model(save=True)
        with tempfile.TemporaryDirectory(dir=".") as folder:
            libzero.save(model, folder, keep=2)
            self.refused(["keep=2", "keep=3"], libzero.save, model, folder, keep=3)
            self.refused(["alike"], libzero.save, model, ".", keep=2)

    def test_a_closed_model_has_no_memory(self):
        model, _ = self.sharded_model()
        libzero.close(model)
        self.assertTrue(all(p.numel() == 0 for p in model.parameters()))

    def test_save_without_a_plan(self):
        model, _ = self.sharded_model()
        self.refused(["saves"], libzero.save, model, ".")
        self.refused(["not sharded"], libzero.save, make(), ".")


if __name__ == "__main__":
    unittest.main()
