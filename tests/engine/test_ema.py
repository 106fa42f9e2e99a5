"""Moving averages of the weights, and random numbers that depend on seed and step only."""

from __future__ import annotations

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import eval as eval_script
from acmix_ms import config, runtime
from acmix_ms.engine import checkpoint, run_dir
from acmix_ms.engine.draws import Draws
from acmix_ms.engine.ema import WeightAverage
from acmix_ms.errors import UserError
from models.layers import DropPath
from tests.helpers.tiny import TinyNet, register
from tests.helpers.training import make_trainer


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_the_average_follows_the_formula(mode, masked):
    runtime.start("CPU", mode)
    net = TinyNet()
    average = WeightAverage(net, 0.3)
    update = average.masked if masked else average
    update = ms.jit(update) if mode == "graph" else update
    name = "body.3.weight"
    weight, expected = net.parameters_dict()[name], net.parameters_dict()[name].asnumpy().copy()
    random = np.random.default_rng(0)
    for step in (1, 2, 3, 4):
        value = random.standard_normal(weight.shape).astype(np.float32)
        runtime.assign(weight, value)
        if masked:
            update(Tensor(False))  # a step that was skipped
            update(Tensor(True))
        else:
            update()
        decay = min(0.3, (1 + step) / (10 + step))  # 2/11, 3/12, 4/13 = 0.31, ...
        expected = decay * expected + (1 - decay) * value
    assert np.allclose(average.named()[name].asnumpy(), expected, atol=1e-6)
    assert set(average.named()) == set(net.parameters_dict())


def test_the_net_has_the_averages_for_a_while():
    runtime.start("CPU", "graph")
    net = TinyNet()
    average = WeightAverage(net, 0.5)
    before = {name: value.asnumpy().copy() for name, value in net.parameters_dict().items()}
    for value in average.averages:
        runtime.assign(value, np.full(value.shape, 7, np.float32))
    with pytest.raises(KeyError), average.applied():
        assert all((value.asnumpy() == 7).all() for value in net.get_parameters())
        raise KeyError
    assert all(np.array_equal(value.asnumpy(), before[name]) for name, value in net.parameters_dict().items())


def test_averages_are_validated_saved_and_evaluated(tmp_path, monkeypatch):
    register(monkeypatch)
    trainer = make_trainer(tmp_path, train__ema_decay=0.8, model__name="tiny_net", runtime__device="CPU")
    trainer.fit()
    best, last = checkpoint.read(tmp_path / run_dir.BEST), checkpoint.read(tmp_path / run_dir.LAST)
    assert best.meta["averaged"]
    name = "fc.weight"
    assert np.array_equal(last.weights[name], trainer.net.parameters_dict()[name].asnumpy())
    assert not np.array_equal(last.weights[name], last.state["ema." + name])
    assert best.meta["epoch"] == 2, "it learns"
    assert np.array_equal(best.weights[name], last.state["ema." + name])

    def top1(file, averaged):
        return eval_script.evaluate(trainer.config, str(tmp_path / file), averaged=averaged)[0]["loss"]

    assert top1(run_dir.LAST, True) == top1(run_dir.BEST, False) == top1(run_dir.BEST, True)
    assert top1(run_dir.LAST, False) != top1(run_dir.LAST, True)
    # What was validated while it trained were the averages as well.
    assert json.loads((tmp_path / run_dir.BEST_SCORES).read_text())["loss"] == pytest.approx(top1(run_dir.BEST, False))
    (tmp_path / "x.mindir").write_bytes(b"")
    with pytest.raises(UserError, match="--weights ema: .*x.mindir has one set of weights"):
        top1("x.mindir", True)
    with pytest.raises(UserError, match="train.ema_decay"):
        make_trainer(tmp_path, train__resume=True)


def test_averages_that_are_not_there_are_missed(tmp_path):
    make_trainer(tmp_path, optim__epochs=1).fit()
    with pytest.raises(UserError, match="last.ckpt has no averaged weights.*leave --weights ema out"):
        checkpoint.load_weights(TinyNet(), tmp_path / run_dir.LAST, averaged=True)


def test_draws_depend_on_seed_and_step_and_ranks_share_them(monkeypatch):
    runtime.start("CPU", "pynative")

    def drawn(seed, step, batch=6):
        net = DropPath(0.25)
        draws = Draws(net, batch, seed)
        draws.renew(step)
        assert net.parameters_dict() == {}, "no weights"
        return net.draws.asnumpy()

    first = drawn(1, 5)
    assert first.shape == (2, 6)
    assert 0 <= first.min() < first.max() < 1
    assert np.array_equal(first, drawn(1, 5))
    assert not np.array_equal(first, drawn(1, 6))
    assert not np.array_equal(first, drawn(2, 5))
    monkeypatch.setattr(runtime, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(runtime, "rank", lambda rank=rank: rank)
        parts.append(drawn(1, 5, batch=3))
    assert np.array_equal(np.concatenate(parts, 1), first), "two processes with half of the batch see the same"


@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_drop_path_takes_its_draws(mode):
    runtime.start("CPU", mode)
    net, still = DropPath(0.4), DropPath(0.0)
    draws = Draws(ms.nn.CellList([still, net]), 1000, 0)
    net.set_train(True)
    x = Tensor(np.ones((1000, 2, 3), np.float32))
    for step in (0, 1):
        draws.renew(step)
        for branch in (0, 1):
            kept = net(x, branch).asnumpy()
            expected = (net.draws.asnumpy()[branch] >= 0.4) / np.float32(0.6)
            assert np.allclose(kept, expected[:, None, None])
            assert kept.mean() == pytest.approx(1, abs=0.1)
    assert still.draws is None


def test_a_decay_of_one_is_refused():
    with pytest.raises(UserError, match="train.ema_decay=1"):
        config.from_dict({"train": {"ema_decay": 1.0}})
