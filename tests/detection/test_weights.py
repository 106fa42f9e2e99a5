"""Weights of detectors: mmdetection's files, classifiers for their backbones, other classes, frozen stages."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from acmix_ms import config
from acmix_ms.backbone import layout
from acmix_ms.engine import checkpoint, finetune, optim
from acmix_ms.errors import UserError
from models import create_model
from models.detection.retinanet import RetinaNet
from models.pretrained import count_classes, load_torch_state, torch_name
from scripts.convert_torch import main as convert

NAME = "retinanet_acmix_shapes"


def random_values(net, seed=1):
    random = np.random.default_rng(seed)
    found = {name: p.shape for name, p in checkpoint.named_parameters(net).items()}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in found.items()}


def mmdetection(net, seed=1):
    """A state dict of a detector with PyTorch's names, and what else mmdetection has in one."""
    state = {torch_name(name): value for name, value in random_values(net, seed).items()}
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    return {**state, **{f"{norm}num_batches_tracked": np.array(3) for norm in norms}}


def values(net):
    return {name: p.asnumpy().copy() for name, p in checkpoint.named_parameters(net).items()}


def around(backbone, num_classes=3, **options):
    return RetinaNet(create_model(backbone, features_only=True, **options), num_classes, channels=16, stacked=1)


# ------------------------------------------------------------------------------------------------- mmdetection's names
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_a_file_of_mmdetection_is_converted_with_its_number_of_classes(tmp_path, ending, capsys):
    state = mmdetection(create_model(NAME, num_classes=7))
    source, output = tmp_path / f"epoch_12.{ending}", tmp_path / "ours.safetensors"
    (np.savez if ending == "npz" else lambda path, **arrays: safetensors.numpy.save_file(arrays, path))(source, **state)
    convert(["--model", NAME, "--input", str(source), "--output", str(output)])
    assert "7 classes, read back and equal" in capsys.readouterr().out
    net = create_model(NAME, pretrained=output)
    assert net.num_classes == 7
    for name, value in values(net).items():
        assert np.array_equal(value, state[torch_name(name)]), name


def test_heads_of_other_classes_are_left_out_where_that_is_asked(tmp_path):
    state = mmdetection(create_model(NAME, num_classes=7))
    net = create_model(NAME, num_classes=3)
    before = values(net)
    with pytest.raises(UserError, match=r"of another shape: bbox_head.retina_cls.weight \(63, 64, 3, 3\) instead"):
        load_torch_state(net, state)
    dropped = load_torch_state(net, state, drop_head=True)
    assert sorted(dropped) == ["bbox_head.retina_cls.bias", "bbox_head.retina_cls.weight"]
    for name, value in values(net).items():
        expected = before[name] if "retina_cls" in name else state[torch_name(name)]
        assert np.array_equal(value, expected), name


def test_what_is_no_detector_of_this_kind_is_listed():
    net, state = create_model(NAME), mmdetection(create_model(NAME))
    state["bbox_head.retina_reg.weights"] = state.pop("bbox_head.retina_reg.weight")
    with pytest.raises(UserError, match="1 missing: bbox_head.retina_reg.weight; 1 unexpected: .*retina_reg.weights"):
        load_torch_state(net, state)


def test_names_of_official_backbones_are_translated_within_a_detector():
    net = around("swin_digits")
    state = mmdetection(net)
    for i in range(4):  # as Swin's code for detection calls them
        for part in ("weight", "bias"):
            state[f"backbone.norm{i}.{part}"] = state.pop(f"backbone.norms.{i}.{part}")
    load_torch_state(net, state)
    assert np.array_equal(net.backbone.norms[2].gamma.asnumpy(), state["backbone.norm2.weight"])
    assert np.array_equal(net.bbox_head.retina_cls.bias.asnumpy(), state["bbox_head.retina_cls.bias"])


@pytest.mark.parametrize(
    ("name", "rows", "classes"),
    [
        ("bbox_head.retina_cls.weight", 720, 80),
        ("bbox_head.retina_cls.weight", 721, None),
        ("roi_head.bbox_head.fc_cls.weight", 81, 80),
        ("roi_head.bbox_head.0.fc_cls.weight", 4, 3),
        ("fc.weight", 10, 10),
        ("neck.weight", 10, None),
    ],
)
def test_classes_are_counted(name, rows, classes):
    assert count_classes({name: np.zeros((rows, 2))}) == classes


# ------------------------------------------------------------------------------------------------------- the backbone
@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_a_classifier_starts_the_backbone(tmp_path, capsys, ending):
    path, net = tmp_path / f"classifier.{ending}", create_model(NAME)
    before = values(net)
    classifier = random_values(net.backbone)
    head = {"fc.weight": np.ones((5, 512), np.float32), "fc.bias": np.ones(5, np.float32)}
    checkpoint.save(path, {**classifier, **head}, meta={"model": "ours", "num_classes": 5})
    finetune.load_backbone_weights(net, path)
    said = capsys.readouterr().out
    assert said in [
        f"features only: {names} of {path} left out\n" for names in ("fc.weight, fc.bias", "fc.bias, fc.weight")
    ]
    for name, value in values(net).items():
        inside = name.removeprefix("backbone.")
        assert np.array_equal(value, classifier[inside] if inside != name else before[name]), name


def test_tables_are_resized_and_own_norms_stay(tmp_path, capsys):
    path, net = tmp_path / "swin.ckpt", around("acmix_swin_digits", window_size=6)
    given = create_model("acmix_swin_digits", num_classes=10)
    checkpoint.save(path, given.parameters_dict())
    finetune.load_backbone_weights(net, path)
    said = capsys.readouterr().out
    assert "6 position tables" in said and "7x7 -> 11x11" in said and "as drawn: norms.0" in said
    assert np.array_equal(net.backbone.patch_embed.proj.weight.asnumpy(), given.patch_embed.proj.weight.asnumpy())


def test_files_that_are_no_classifier_for_this_backbone_are_refused(tmp_path):
    net, path = create_model(NAME), tmp_path / "some.ckpt"
    before = values(net)

    def refused(words, net=net):
        with pytest.raises(UserError, match=words):
            finetune.load_backbone_weights(net, path)

    refused("some.ckpt does not exist")
    path.write_bytes(b"no checkpoint")
    refused("some.ckpt")
    checkpoint.save(path, create_model("resnet_digits", num_classes=10).parameters_dict(), meta={"model": "resnet"})
    refused("holds resnet, another architecture")
    checkpoint.save(path, net.parameters_dict())
    refused("model.backbone_checkpoint=.*some.ckpt: the file is of a whole net; give a classifier's, or model.init_ch")
    refused("ResNet is not built around a backbone; give model.init_checkpoint", create_model("resnet_digits"))
    assert all(np.array_equal(value, before[name]) for name, value in values(net).items())


def test_a_net_starts_from_one_file():
    detection = ["task=detection", "model.backbone_checkpoint=a.ckpt"]
    assert config.from_overrides(detection).model.backbone_checkpoint == "a.ckpt"
    with pytest.raises(UserError, match="backbone_checkpoint='a.ckpt': goes not with model.init_checkpoint='b.ckpt'"):
        config.from_overrides([*detection, "model.init_checkpoint=b.ckpt"])
    with pytest.raises(UserError, match="'a.ckpt': is for task=detection or segmentation; give model.init_checkpoint"):
        config.from_overrides(detection[1:])


def test_a_detector_for_other_classes_starts_from_a_whole_one(tmp_path, capsys):
    path, net = tmp_path / "coco.ckpt", create_model(NAME, num_classes=3)
    given, drawn = random_values(create_model(NAME)), values(net)
    checkpoint.save(path, given, meta={"model": NAME, "num_classes": 80})
    finetune.load_initial_weights(net, path)
    assert capsys.readouterr().out == f"bbox_head.retina_cls of {path} is for other classes: drawn anew\n"
    for name, value in values(net).items():
        assert np.array_equal(value, (drawn if "retina_cls" in name else given)[name]), name


# ------------------------------------------------------------------------------------------------------------- recipes
def test_stages_norms_and_layers_are_the_backbones(capsys):
    net = create_model("retinanet_shapes", num_classes=3)
    assert layout(net).prefix == "backbone."
    finetune.freeze(net, 1)
    finetune.keep_statistics(net)
    frozen = {name.rpartition(".")[0] for name, p in net.parameters_dict().items() if not p.requires_grad}
    norms = {name for name in frozen if hasattr(net.parameters_dict().get(f"{name}.moving_mean"), "shape")}
    assert all(name.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1")) for name in frozen - norms)
    assert "frozen: the stem and 1 of 4 stages" in capsys.readouterr().out
    assert finetune.is_frozen(net.backbone.layer4[0].bn1) and net.backbone.layer4[0].bn1.gamma.requires_grad
    factors = optim.rate_factors(net, 0.5)  # stem and four blocks
    assert factors["neck.lateral_convs.0.conv.weight"] == factors["bbox_head.retina_cls.bias"] == 1.0
    assert factors["backbone.layer4.0.conv1.weight"] == 0.5
    assert "backbone.layer1.0.conv1.weight" not in factors
