"""Fine-tuning: other classes, other sizes of images, frozen stages, slower layers."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn

from acmix_ms import runtime
from acmix_ms.engine import checkpoint, finetune, parallel, run_dir
from acmix_ms.engine.finetune import belongs, bicubic_matrix, freeze, load_initial_weights, resize_table
from acmix_ms.engine.optim import parameter_groups, rate_factors
from acmix_ms.errors import UserError
from models import create_model
from tests.engine.test_optim import follow_the_formula
from tests.helpers.tiny import TinyNet
from tests.helpers.training import make_trainer

SMALL_IMAGES = {"image_size": 32}
# A model of each family, its arguments, its stages, its layers with the stem, and what comes after them.
FAMILIES = {
    "acmix_resnet26": ({}, 4, 1 + 8, {"fc"}),
    "acmix_san_digits": ({}, 5, 1 + 7, {"fc"}),
    "acmix_swin_digits": ({}, 4, 1 + 6, {"norm", "head"}),
    "acmix_pvt_tiny": (SMALL_IMAGES, 4, 1 + 8, {"norm", "head"}),
    "acmix_deit_tiny": (SMALL_IMAGES, 12, 1 + 12, {"norm", "head"}),
}


def values(net):
    return {name: parameter.asnumpy().copy() for name, parameter in net.parameters_dict().items()}


def save(path, net):
    """A checkpoint of the net with random numbers instead of zeros and ones; returns its weights."""
    random = np.random.default_rng(1)
    weights = {name: random.standard_normal(value.shape).astype(np.float32) for name, value in values(net).items()}
    checkpoint.save(path, weights, meta={"model": type(net).__name__})
    return weights


def flat(stages):
    return [layer for stage in stages for layer in stage]


# ------------------------------------------------------------------------------------------------- the other classes
def test_a_classifier_of_other_classes_is_drawn_anew_and_all_else_taken(tmp_path, capsys):
    path, net = tmp_path / "ten.ckpt", TinyNet(num_classes=7)
    given, drawn = save(path, TinyNet(num_classes=10)), values(net)
    load_initial_weights(net, path)
    assert capsys.readouterr().out == f"classifier has 10 classes in {path}, 7 here: drawn anew\n"
    for name, value in values(net).items():
        assert np.array_equal(value, drawn[name] if name.startswith("fc.") else given[name]), name


def test_a_classifier_of_as_many_classes_is_taken_in_silence(tmp_path, capsys):
    path, net = tmp_path / "ten.ckpt", TinyNet()
    given = save(path, TinyNet())
    load_initial_weights(net, path)
    assert capsys.readouterr().out == ""
    assert all(np.array_equal(value, given[name]) for name, value in values(net).items())


def test_what_else_does_not_fit_is_refused_and_nothing_changes(tmp_path, capsys):
    path = tmp_path / "ten.ckpt"
    given = save(path, TinyNet())

    def refused(net, words):
        before = values(net)
        with pytest.raises(UserError, match=words):
            load_initial_weights(net, path)
        assert all(np.array_equal(value, before[name]) for name, value in values(net).items())

    refused(TinyNet(7, width=24), "another architecture.*other shapes")  # the classifier has other features too
    without_head = TinyNet(7)
    without_head.head_names = ()
    refused(without_head, "has 10 classes, the model 7")
    more = TinyNet(7)
    more.more = nn.Dense(2, 2)
    refused(more, "another architecture: lacks 2")
    checkpoint.save(path, {name: value for name, value in given.items() if name != "fc.bias"})
    refused(TinyNet(7), "lacks 1")
    assert capsys.readouterr().out == ""


def test_the_classifier_is_that_of_the_model_not_the_fc_of_an_operator(tmp_path):
    path, net = tmp_path / "ten.ckpt", create_model("acmix_resnet_digits", num_classes=4)
    given, drawn = save(path, create_model("acmix_resnet_digits", num_classes=10)), values(net)
    load_initial_weights(net, path)
    for name, value in values(net).items():
        own = name in ("fc.weight", "fc.bias")
        assert np.array_equal(value, drawn[name] if own else given[name]), name
    assert "layer1.0.conv2.fc.weight" in given


# -------------------------------------------------------------------------------------------------- the other sizes
def test_bicubic_as_the_onnx_standard_prints_it():
    """Its examples for Resize, mode cubic: PyTorch's coefficient -0.75, half-pixel centres, edges repeated."""
    image = np.arange(1.0, 17).reshape(4, 4)
    eight, nine, ten = bicubic_matrix(8, 4), bicubic_matrix(9, 4), bicubic_matrix(10, 4)
    twice = eight @ image @ eight.T
    first = [0.47265625, 0.76953125, 1.24609375, 1.875, 2.28125, 2.91015625, 3.38671875, 3.68359375]
    assert np.allclose(twice[0], first, rtol=0, atol=1e-12)
    column = [0.47265625, 1.66015625, 3.56640625, 6.08203125, 7.70703125, 10.22265625, 12.12890625, 13.31640625]
    assert np.allclose(twice[:, 0], column, rtol=0, atol=1e-12)
    first = [0.45507922, 0.64057922, 0.97157922, 1.42257922, 1.90732922]
    first += [2.22332922, 2.70807922, 3.15907922, 3.49007922, 3.67557922]
    assert np.allclose((nine @ image @ ten.T)[0], first, rtol=0, atol=1e-8)
    assert (nine @ image @ ten.T)[4, 4] == pytest.approx(8.342, abs=1e-8)
    assert np.array_equal(bicubic_matrix(5, 5), np.eye(5))


def splined(line, size):
    """The same by another formula: Hermite splines with slopes 0.75 * (right - left); (n, ...) -> (size, ...)."""
    out = []
    for place in range(size):
        centre = (place + 0.5) * len(line) / size - 0.5
        start = int(np.floor(centre))
        t = centre - start
        a, b, c, d = (line[min(max(start + i, 0), len(line) - 1)].astype(np.float64) for i in (-1, 0, 1, 2))
        ends = (2 * t**3 - 3 * t**2 + 1) * b + (3 * t**2 - 2 * t**3) * c
        out.append(ends + 0.75 * ((t**3 - 2 * t**2 + t) * (c - a) + (t**3 - t**2) * (d - b)))
    return np.stack(out)


def splined_map(rows, side):
    """(s*s, C) -> (side*side, C)."""
    low = round(len(rows) ** 0.5)
    grid = splined(rows.reshape(low, low, -1), side)  # (side, low, C)
    return splined(grid.swapaxes(0, 1), side).swapaxes(0, 1).reshape(side * side, -1)


@pytest.mark.parametrize(("low", "side"), [(7, 12), (14, 24), (13, 23), (5, 3), (1, 4)])
def test_tables_are_resized_as_the_formula_says(low, side):
    table = np.random.default_rng(0).standard_normal((1, 1 + low * low, 3)).astype(np.float32)
    resized = resize_table(table, (1, 1 + side * side, 3), tokens=1)
    assert resized.dtype == np.float32
    assert np.array_equal(resized[:, :1], table[:, :1]), "the class token's"
    assert np.abs(resized[0, 1:] - splined_map(table[0, 1:], side)).max() < 1e-6


def test_a_ramp_stays_one_in_its_direction():
    """Rows and columns must not be mistaken for each other; in the middles of the old places nothing changes."""
    ramp = np.repeat(np.arange(6.0), 6)[:, None].astype(np.float32)  # (6*6, 1): the number of the row
    resized = resize_table(ramp, (18 * 18, 1)).reshape(18, 18)
    assert np.allclose(resized, resized[:, :1], atol=1e-6)
    assert np.allclose(resized[4:14:3, 0], np.arange(1, 5), atol=1e-6)
    assert (np.diff(resized[:, 0]) > 0).all()


@pytest.mark.parametrize("name", ["acmix_deit_tiny", "acmix_pvt_tiny"])
def test_position_embeddings_are_resized_and_the_token_kept(tmp_path, capsys, name):
    path = tmp_path / "small.ckpt"
    given = save(path, create_model(name, num_classes=3, image_size=64))
    net = create_model(name, num_classes=3, image_size=96)
    load_initial_weights(net, path)
    tables = {"pos_embed": (6, 1)}
    if "pvt" in name:
        tables = {"pos_embed1": (24, 0), "pos_embed2": (12, 0), "pos_embed3": (6, 0), "pos_embed4": (3, 1)}
    for key, value in values(net).items():
        if key not in tables:
            assert np.array_equal(value, given[key]), key
            continue
        side, tokens = tables[key]
        assert np.array_equal(value[0, :tokens], given[key][0, :tokens])
        assert np.abs(value[0, tokens:] - splined_map(given[key][0, tokens:], side)).max() < 1e-5, key
    count, first = ("4 position tables", "pos_embed1: 16x16 -> 24x24")
    if "deit" in name:
        count, first = ("1 position table", "pos_embed: 4x4 -> 6x6")
    assert capsys.readouterr().out == f"{count} of {path} resized (bicubic), first {first}\n"


def test_swins_tables_are_resized_for_another_window(tmp_path, capsys):
    path = tmp_path / "four.ckpt"
    given = save(path, create_model("acmix_swin_digits", num_classes=3))
    net = create_model("acmix_swin_digits", num_classes=5, window_size=6).set_train(False)
    load_initial_weights(net, path)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"classifier has 3 classes in {path}, 5 here: drawn anew"
    first = "layers.0.blocks.0.attn.relative_position_bias_table: 7x7 -> 11x11"
    assert said[1:] == [f"6 position tables of {path} resized (bicubic), first {first}"]
    for name, value in values(net).items():
        if name.endswith("relative_position_bias_table"):
            assert value.shape[0] == 11 * 11
            assert np.abs(value - splined_map(given[name], 11)).max() < 1e-5, name
        elif not name.startswith("head."):
            assert np.array_equal(value, given[name]), name
    assert net.layers[0].blocks[0].attn.relative_position_index.shape == (6**4,), "the index is the model's own"
    assert net(Tensor(np.ones((1, 3, 48, 48), np.float32))).shape == (1, 5)


def test_tables_that_are_no_grids_are_refused(tmp_path):
    path, net = tmp_path / "x.ckpt", create_model("deit_tiny", num_classes=3, image_size=32)
    given = save(path, net)
    checkpoint.save(path, {**given, "pos_embed": given["pos_embed"][:, :4]})  # a token and three places
    with pytest.raises(UserError, match="another architecture: has other shapes for 1 .first pos_embed"):
        load_initial_weights(net, path)


# ------------------------------------------------------------------------------------------------------ the stages
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_names_its_stages(name):
    kwargs, stages, layers, rest = FAMILIES[name]
    net = create_model(name, num_classes=3, **kwargs)
    assert len(net.stages) - 1 == stages
    assert len(flat(net.stages)) == layers
    owners = {p: [i for i, layer in enumerate(flat(net.stages)) if belongs(p, layer)] for p in net.parameters_dict()}
    assert max(map(len, owners.values())) == 1
    assert {parameter.partition(".")[0] for parameter, owner in owners.items() if not owner} == rest
    numbers = [owner[0] for owner in owners.values() if owner]
    assert set(numbers) == set(range(layers))
    known = [*owners, *(cell for cell, _ in net.cells_and_names())]
    assert not [
        prefix for layer in flat(net.stages) for prefix in layer if not any(belongs(k, [prefix]) for k in known)
    ]


def two_steps(trainer, count=8):
    """All values before and after two training steps, with an evaluation in between."""
    before = values(trainer.net)
    images, (labels,), _ = next(trainer.train_loader.epoch(0))
    for _ in range(2):
        trainer.model.set_train(True)
        _, _, finite = trainer.train_step(Tensor(images[:count]), Tensor(labels[:count]))
        assert bool(finite.asnumpy())
        trainer.model.set_train(False)
        trainer.predict(Tensor(images[:count]))
    return before, values(trainer.net)


SLOW = pytest.mark.slow
FREEZING = [
    ("tiny", "graph", 0, ()),
    ("tiny", "graph", 1, ("body",)),
    ("tiny", "pynative", 1, ("body",)),
    ("acmix_resnet_digits", "pynative", 2, ("conv1", "bn1", "layer1", "layer2")),
    pytest.param("acmix_resnet_digits", "graph", 2, ("conv1", "bn1", "layer1", "layer2"), marks=SLOW),
    pytest.param("acmix_san_digits", "pynative", 1, ("conv_in", "bn_in", "conv0", "layer0", "bn0"), marks=SLOW),
    pytest.param("acmix_swin_digits", "pynative", 3, ("patch_embed", *(f"layers.{i}" for i in range(3))), marks=SLOW),
]


@pytest.mark.parametrize(("name", "mode", "count", "frozen"), FREEZING)
def test_frozen_stages_keep_every_bit_and_the_others_move(tmp_path, name, mode, count, frozen):
    runtime.start(mode=mode)
    net = TinyNet() if name == "tiny" else create_model(name, num_classes=10)
    options = {"model__frozen_stages": count, "data__batch_size": 16, "optim__weight_decay": 0.01}
    if "san" in name:
        options["data__image_size"] = 64  # in 32x32 its last map is one pixel, whose attention learns nothing
    before, after = two_steps(make_trainer(tmp_path, net, mode, **options))
    still = {key for key in before if np.array_equal(before[key], after[key])}
    expected = {key for key in before if belongs(key, frozen)}
    assert expected or not count
    assert expected <= still
    # The softmax cancels what conv_p.bias adds, and a BatchNorm what the last conv.bias of a layer of SAN does.
    cancelled = ("conv_p.bias", ".conv.bias")
    assert [key for key in still - expected if not key.endswith(cancelled)] == []
    if "resnet" in name:
        assert {"bn1.moving_mean", "layer2.0.bn3.moving_variance"} <= expected
        assert "layer3.0.bn1.moving_mean" in before.keys() - still


@pytest.mark.parametrize("precision", ["mixed", "fp16"])
def test_stages_stay_frozen_in_sixteen_bits(tmp_path, precision):
    trainer = make_trainer(tmp_path, model__frozen_stages=1, data__batch_size=16, train__precision=precision)
    before, after = two_steps(trainer)
    assert {key for key in before if np.array_equal(before[key], after[key])} == {k for k in before if "body" in k}


def test_nothing_is_dropped_in_frozen_stages():
    net = create_model("acmix_swin_digits", features_only=True, drop_rate=0.5, drop_path_rate=0.5)
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32))
    first = [[y.asnumpy() for y in net.set_train(True)(x)] for _ in range(2)]
    assert not np.array_equal(first[0][0], first[1][0])
    freeze(net, 2)
    once, again = [[y.asnumpy() for y in net.set_train(True)(x)] for _ in range(2)]
    assert [np.array_equal(a, b) for a, b in zip(once, again)] == [True, True, False, False]


def test_freezing_says_how_much_and_refuses_what_is_not_there(capsys):
    net = TinyNet()
    for count in (0, -1):
        freeze(net, count)
    assert len(net.trainable_params()) == 10
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="model.frozen_stages=2: the last stage of TinyNet is 1, give 0 to 1"):
        freeze(net, 2)
    assert len(net.trainable_params()) == 10
    freeze(net, 1)
    assert [parameter.name for parameter in net.trainable_params()] == ["rate1", "fc.weight", "fc.bias"]
    said = "frozen: the stem and 1 of 1 stages, 5,152 of 25,643 parameters\n"
    assert capsys.readouterr().out == said
    with pytest.raises(UserError, match="model.frozen_stages=1: Dense does not name its stages; leave it out"):
        freeze(nn.Dense(2, 2), 1)


def test_a_group_averages_no_frozen_statistics(monkeypatch):
    net = TinyNet()
    finetune._keep_in_evaluation(net.body[1])
    monkeypatch.setattr(runtime, "world_size", lambda: 2)
    monkeypatch.setattr(parallel.ops, "AllReduce", lambda *_: lambda value: value + 6)
    before = values(net)
    parallel.average(parallel.statistics(net))
    after = values(net)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert changed == {"body.4.moving_mean", "body.4.moving_variance"}


# ---------------------------------------------------------------------------------------------------- slower layers
def test_rates_of_the_layers():
    """(number of layers - i) times the decay: BEiT's rule, with Swin's downsampling in the layer before it."""
    factors = rate_factors(create_model("acmix_swin_digits", num_classes=3), 0.5)
    expected = {
        "patch_embed.proj.weight": 2**-7,
        "layers.0.blocks.0.norm1.gamma": 2**-6,
        "layers.0.blocks.1.attn.qkv.weight": 2**-5,
        "layers.0.downsample.reduction.weight": 2**-5,
        "layers.1.blocks.0.attn.rate1": 2**-4,
        "layers.3.blocks.0.mlp.fc2.bias": 2**-1,
        "norm.gamma": 1.0,
        "head.weight": 1.0,
    }
    assert {name: factors[name] for name in expected} == expected
    pvt = rate_factors(create_model("pvt_tiny", num_classes=3, image_size=32), 0.5)
    assert (pvt["pos_embed1"], pvt["pos_embed2"], pvt["cls_token"], pvt["block4.1.norm1.beta"]) == (
        *(2**-9, 2**-6, 2**-2, 2**-1),
    )


def test_groups_have_one_factor_and_one_decay_each():
    net = TinyNet()
    groups = parameter_groups(net, 0.1, 0.5)
    found = {(group["weight_decay"], group["rate_factor"]): {p.name for p in group["params"]} for group in groups}
    assert found == {
        (0.1, 0.25): {"body.0.weight"},
        (0.1, 0.5): {"body.3.weight"},
        (0.1, 1.0): {"fc.weight"},
        (0.0, 0.25): {"body.0.bias", "body.1.gamma", "body.1.beta"},
        (0.0, 0.5): {"body.4.gamma", "body.4.beta"},
        (0.0, 1.0): {"rate1", "fc.bias"},
    }
    freeze(net, 1)
    assert [group["rate_factor"] for group in parameter_groups(net, 0.1, 0.5)] == [1.0, 1.0]
    with pytest.raises(UserError, match="optim.layer_decay=0.5: Dense does not name its stages"):
        parameter_groups(nn.Dense(2, 2), 0.1, 0.5)


@pytest.mark.parametrize("mode", ["graph", "pynative"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_of_slower_layers_match_the_formula(name, mode):
    """A rate for each layer, which the schedule moves as one."""

    def factor(key):
        return 0.25 if key[:6] in ("body.0", "body.1") else 0.5 if key.startswith("body") else 1.0

    follow_the_formula(name, mode, (0.1, 0.03), factor=factor, layer_decay=0.5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_trained_step_is_shorter_by_the_factor(tmp_path, name):
    """The same first step with and without layer decay: the ratio of the steps is the factor."""
    steps = []
    for layer_decay in (1.0, 0.5):
        runtime.start("CPU", "graph")  # the same seed
        options = {"optim__name": name, "optim__layer_decay": layer_decay, "optim__clip_norm": 0.0}
        trainer = make_trainer(tmp_path / str(layer_decay), TinyNet(), data__batch_size=16, **options)
        before = values(trainer.net)
        trainer.model.set_train(True)
        images, (labels,), _ = next(trainer.train_loader.epoch(0))
        trainer.train_step(Tensor(images), Tensor(labels))
        steps.append({key: value - before[key] for key, value in values(trainer.net).items()})
    for key, factor in {"body.0.weight": 0.25, "body.4.beta": 0.5, "fc.weight": 1.0}.items():
        longest = np.abs(steps[0][key]).max()
        assert longest > 1e-4
        assert np.abs(steps[1][key] - factor * steps[0][key]).max() < 1e-3 * longest, key


# --------------------------------------------------------------------------------------------------------- resuming
def test_a_run_goes_on_only_where_there_is_a_state_and_it_shall(tmp_path):
    assert not run_dir.goes_on(tmp_path, resume=True)
    (tmp_path / "best.ckpt").touch()
    assert not run_dir.goes_on(tmp_path, resume=True)
    (tmp_path / "step-00000003.ckpt").touch()
    assert run_dir.goes_on(tmp_path, resume=True)
    assert not run_dir.goes_on(tmp_path, resume=False)
    (tmp_path / "step-00000003.ckpt").rename(tmp_path / "last.ckpt")
    assert run_dir.goes_on(tmp_path, resume=True)


def test_other_frozen_stages_cannot_be_resumed(tmp_path):
    make_trainer(tmp_path, optim__epochs=1, model__frozen_stages=1).fit()
    options = {"optim__epochs": 1, "train__resume": True}
    with pytest.raises(UserError, match="model.frozen_stages: 1 -> 0"):
        make_trainer(tmp_path, **options)
    with pytest.raises(UserError, match="another optim.name, model.frozen_stages"):
        make_trainer(tmp_path, **options, train__allow_changes=True)
    with pytest.raises(UserError, match="optim.layer_decay: 1.0 -> 0.9"):
        make_trainer(tmp_path, **options, model__frozen_stages=1, optim__layer_decay=0.9)
    assert make_trainer(tmp_path, **options, model__frozen_stages=1).epoch == 1
