"""What a backbone tells holds as well where it is a part of a larger net: freezing, rates, tables, fusing."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn

from acmix_ms.backbone import Backbone, layout
from acmix_ms.engine import checkpoint, finetune, optim, parallel
from acmix_ms.errors import UserError
from acmix_ms.ops.fuse import fuse, randomise
from models import create_model, list_models
from tests.helpers.tiny import TinyNet


class Detector(nn.Cell):
    """A head on the coarsest map of a backbone, as detectors have their parts."""

    def __init__(self, name, **kwargs):
        super().__init__()
        self.backbone = create_model(name, features_only=True, **kwargs)
        self.bbox_head = nn.Conv2d(self.backbone.feature_channels[-1], 4, 1, has_bias=True)

    def construct(self, x):
        return self.bbox_head(self.backbone(x)[-1])


IMAGES = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)


def test_names_stand_behind_the_place_of_the_backbone():
    alone, part = layout(create_model("swin_digits", features_only=True)), layout(Detector("swin_digits"))
    assert (alone.prefix, part.prefix) == ("", "backbone.")
    assert part.head_names == tuple(f"backbone.{name}" for name in alone.head_names)
    assert part.stages[0] == (("backbone.patch_embed", "backbone.pos_drop"),)
    assert layout(nn.ReLU()).cell is None


CLASSIFIERS = list_models(task="classification")


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if "digits" in name or "deit" in name])
def test_every_model_tells_what_is_true_of_its_parameters(name):
    net = create_model(name)
    assert isinstance(net, Backbone)
    names = [*checkpoint.named_parameters(net), *(cell for cell, _ in net.cells_and_names())]
    told = [prefix for stage in net.stages for layer in stage for prefix in layer] + list(net.head_names)
    assert [prefix for prefix in told if not any(finetune.belongs(found, (prefix,)) for found in names)] == []
    assert len(net.feature_strides) == len(net.feature_channels) > 0


def test_freezing_reaches_into_the_detector_and_leaves_its_head_alone(capsys):
    net = Detector("resnet_digits")
    finetune.freeze(net, 1)
    frozen = [p.name for p in net.get_parameters() if not p.requires_grad and ".moving_" not in p.name]
    assert frozen and all(name.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1")) for name in frozen)
    assert net.bbox_head.weight.requires_grad and net.backbone.layer2[0].conv1.weight.requires_grad
    assert "frozen: the stem and 1 of 4 stages" in capsys.readouterr().out


def test_layer_decay_counts_the_layers_of_the_backbone():
    factors = optim.rate_factors(Detector("resnet_digits"), 0.5)  # stem and four blocks
    assert factors["bbox_head.weight"] == 1.0
    assert factors["backbone.conv1.weight"] == 0.5**5
    assert factors["backbone.layer4.0.conv1.weight"] == 0.5


def test_tables_of_a_detector_are_resized_and_so_are_those_of_its_backbone_alone(tmp_path):
    classifier, small = create_model("swin_digits", 10), Detector("swin_digits")
    saved = checkpoint.Checkpoint({n: p.asnumpy() for n, p in checkpoint.named_parameters(small).items()}, {}, {})
    large = Detector("swin_digits", window_size=6)
    (said,) = finetune.take_over(large, saved, "small.ckpt")
    assert "6 position tables of small.ckpt resized (bicubic), first backbone.layers.0.blocks.0.attn" in said
    assert np.array_equal(large.bbox_head.weight.asnumpy(), small.bbox_head.weight.asnumpy())

    checkpoint.save(tmp_path / "classifier.ckpt", classifier.parameters_dict())
    for net in (small.backbone, large.backbone):  # of a classifier, whose names have no prefix
        finetune.load_initial_weights(net, tmp_path / "classifier.ckpt")
        assert np.array_equal(net.patch_embed.proj.weight.asnumpy(), classifier.patch_embed.proj.weight.asnumpy())


def test_norms_in_evaluation_keep_their_statistics_and_learn_their_weights():
    net = Detector("resnet_digits")
    assert len(parallel.statistics(net)) > 0
    finetune.keep_statistics(net)
    net.set_train(True)
    net(Tensor(IMAGES))
    norm = net.backbone.bn1
    assert parallel.statistics(net) == []  # none of them moves
    assert not norm.moving_mean.asnumpy().any() and norm.gamma.requires_grad
    with pytest.raises(UserError, match="model.norm_eval=true: Detector has no BatchNorm in a backbone"):
        finetune.keep_statistics(Detector("swin_digits"))


@pytest.mark.parametrize("name", ["acmix_resnet_digits", "acmix_swin_digits"])
def test_a_detector_is_fused_as_its_backbone_is(name):
    net = randomise(Detector(name)).set_train(False)
    fused = fuse(net)
    given, expected = fused(Tensor(IMAGES)).asnumpy(), net(Tensor(IMAGES)).asnumpy()
    assert np.abs(given - expected).max() <= 1e-5 * np.abs(expected).max()
    cells = {type(cell).__name__ for _, cell in fused.cells_and_names()}
    assert not cells & {"ACmix", "WindowACmix"} and (name != "acmix_resnet_digits" or "BatchNorm2d" not in cells)


def test_a_net_without_stages_is_told():
    class Bare(nn.Cell):
        pass

    for asked in (lambda: finetune.freeze(Bare(), 1), lambda: optim.rate_factors(Bare(), 0.5)):
        with pytest.raises(UserError, match="Bare does not name its stages"):
            asked()
    assert layout(TinyNet()).head_names == ("fc",)
