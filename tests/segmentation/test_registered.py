"""Every segmentor that has a name: parameters, weights of others, and of the small ones a step forward and backward."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters

from acmix_ms import runtime
from acmix_ms.analysis.work import count_params
from acmix_ms.backbone import layout
from acmix_ms.engine import finetune
from acmix_ms.errors import UserError
from acmix_ms.ops.fuse import fuse
from models import create_model, list_models, model_task
from models.pretrained import count_classes, load_torch_state, torch_name
from models.segmentation import Segmentor
from models.segmentation.semantic_fpn import SemanticFPN
from models.segmentation.upernet import UPerNet
from scripts.convert_torch import main as convert

SEGMENTORS = list_models(task="segmentation")
SMALL = [name for name in SEGMENTORS if name.endswith("_shapes")]
NECK, HEAD = 2_623_488, 1_643_158  # of Semantic FPN on PVT
NECK_RESNET = 256 * (256 + 512 + 1024 + 2048 + 4) + 4 * (9 * 256 * 256 + 256)
# Those of mmsegmentation with the official backbones; where there is none, the classifier's without its head.
PARAMETERS = {
    "semantic_fpn_pvt_tiny": 16_981_398,
    "semantic_fpn_pvt_small": 28_237_974,
    "semantic_fpn_acmix_pvt_tiny": 13_396_128 - 513 * 1000 - 3 * 512 + NECK + HEAD,
    "semantic_fpn_acmix_pvt_small": 24_824_755 - 513 * 1000 - 3 * 512 + NECK + HEAD,
    "semantic_fpn_resnet50": 23_508_032 + NECK_RESNET + HEAD,
    "semantic_fpn_acmix_resnet50": 16_284_976 + NECK_RESNET + HEAD,
    "upernet_swin_tiny": 59_941_862,
    "upernet_swin_small": 81_259_766,
    "upernet_acmix_swin_tiny": 60_303_416,
    "upernet_acmix_swin_small": 81_998_588,
}


def test_every_segmentor_is_counted():
    assert set(SEGMENTORS) == {*PARAMETERS, *SMALL}
    assert SMALL == ["semantic_fpn_acmix_shapes", "semantic_fpn_shapes", "upernet_acmix_shapes"]
    assert model_task("upernet_swin_tiny") == "segmentation"


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_exact(name):
    with no_init_parameters():  # their values take longer than the net
        net = create_model(name)
    assert net.num_classes == 150
    assert count_params([net]) == PARAMETERS[name]
    names = [parameter.name for parameter in net.get_parameters()]
    assert all(any(name.startswith(f"{head}.") for name in names) for head in net.head_names)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"channels": 0}, "channels=0: give an integer of at least 1"),
        ({"drop": 1.0}, "drop=1.0: give a rate from 0 to below 1"),
        ({"auxiliary_weight": 0.4}, "does not take this argument: auxiliary_weight=0.4; it takes"),
        ({"features_only": True}, "features_only=True; it takes channels, drop, head_channels"),
    ],
)
def test_arguments_that_a_segmentor_cannot_take_are_told_with_its_name(options, told):
    with pytest.raises(UserError, match=f"model 'semantic_fpn_acmix_shapes': .*{told}"):
        create_model("semantic_fpn_acmix_shapes", **options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), [("semantic_fpn_shapes", "graph"), ("upernet_acmix_shapes", "pynative")])
def test_a_small_segmentor_learns_and_answers(name, mode):
    """Sides that no stride divides: maps of 15x18, 8x9, 4x5 and 2x3."""
    runtime.start("CPU", mode)
    net = create_model(name, num_classes=3)
    assert isinstance(net, Segmentor)
    random = np.random.default_rng(0)
    images = Tensor(random.standard_normal((2, 3, 60, 70)).astype(np.float32))
    labels = random.integers(0, 3, (2, 60, 70)).astype(np.int32)
    labels[:, :9] = 255
    parameters = list(net.set_train(True).trainable_params())

    def loss(images, labels):
        terms = net(images, labels)
        return sum(terms), terms

    step = ms.value_and_grad(loss, None, parameters, has_aux=True)
    (total, terms), gradients = step(images, Tensor(labels))
    assert len(terms) == len(net.terms)
    assert float(terms[0].asnumpy()) == pytest.approx(51 / 60 * np.log(3), rel=0.2)
    assert float(total.asnumpy()) == pytest.approx(sum(float(term.asnumpy()) for term in terms))
    idle = [p.name for p, g in zip(parameters, gradients) if not np.abs(g.asnumpy()).max() > 0]
    assert not [name for name in idle if not name.endswith("conv_p.bias")]  # which cancels in the softmax
    logits = net.set_train(False)(images)
    assert logits.shape == (2, 3, 15, 18)
    fused = fuse(net)
    assert not [cell for _, cell in fused.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    assert np.allclose(fused(images).asnumpy(), logits.asnumpy(), atol=1e-4)


def test_dropout_drops_whole_channels_in_training_alone():
    net = create_model("semantic_fpn_shapes", num_classes=3, drop=0.5)
    dropout, x = net.decode_head.dropout, Tensor(np.ones((2, 64, 4, 4), np.float32))
    assert np.array_equal(dropout.set_train(False)(x).asnumpy(), x.asnumpy())
    found = dropout.set_train(True)(x).asnumpy()
    assert set(np.unique(found)) == {0.0, 2.0} and np.array_equal(found, found[..., :1, :1] * np.ones((4, 4)))
    drawn = np.zeros((70, 2), np.float32)
    drawn[5:69, 1] = np.linspace(0, 1, 64, endpoint=False)
    dropout.use_draws(ms.Parameter(Tensor(drawn)), 5)
    found = dropout(x).asnumpy()[..., 0, 0]
    assert not found[0].any() and np.array_equal(found[1], 2.0 * (drawn[5:69, 1] >= 0.5))


def test_upernet_refuses_one_image_in_training():
    runtime.start("CPU", "pynative")
    net, image = create_model("upernet_acmix_shapes", num_classes=3), Tensor(np.zeros((1, 3, 64, 64), np.float32))
    assert net.set_train(False)(image).shape == (1, 3, 16, 16)
    labels = Tensor(np.zeros((1, 64, 64), np.int32))
    with pytest.raises(UserError, match="one image per device: .*data.batch_size=2.*train.sync_bn=true"):
        net.set_train(True)(image, labels)


# ------------------------------------------------------------------------------------------------------------ weights
def mmsegmentation(net, seed=1):
    """A state dict with PyTorch's names, and what else mmsegmentation has in one."""
    random = np.random.default_rng(seed)
    state = {torch_name(p.name): random.standard_normal(p.shape).astype(np.float32) for p in net.get_parameters()}
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    return {**state, **{f"{norm}num_batches_tracked": np.array(3) for norm in norms}}


@pytest.mark.parametrize("name", ["semantic_fpn_shapes", "upernet_acmix_shapes"])
def test_a_file_of_mmsegmentation_is_converted_with_its_number_of_classes(tmp_path, name, capsys):
    state = mmsegmentation(create_model(name, num_classes=7))
    assert count_classes(state) == 7
    source, output = tmp_path / "iter_40000.npz", tmp_path / "ours.safetensors"
    np.savez(source, **state)
    convert(["--model", name, "--input", str(source), "--output", str(output)])
    assert "7 classes, read back and equal" in capsys.readouterr().out
    net = create_model(name, pretrained=output)
    assert net.num_classes == 7
    for parameter in net.get_parameters():
        assert np.array_equal(parameter.asnumpy(), state[torch_name(parameter.name)]), parameter.name


def test_heads_of_other_classes_are_left_out_where_that_is_asked():
    state, net = (
        mmsegmentation(create_model("upernet_acmix_shapes", num_classes=7)),
        create_model("upernet_acmix_shapes", num_classes=3),
    )
    with pytest.raises(UserError, match=r"of another shape: .*conv_seg.weight \(7, 32, 1, 1\) instead of \(3, 32"):
        load_torch_state(net, state)
    dropped = load_torch_state(net, state, drop_head=True)
    heads = [f"{head}_head.conv_seg.{part}" for head in ("auxiliary", "decode") for part in ("bias", "weight")]
    assert sorted(dropped) == heads
    assert np.array_equal(net.decode_head.bottleneck.bn.moving_mean.asnumpy(),
                          state["decode_head.bottleneck.bn.running_mean"])  # fmt: skip


def test_names_of_swins_code_for_segmentation_are_translated():
    net = UPerNet(create_model("swin_digits", features_only=True), 3, channels=8, auxiliary_channels=8)
    state = mmsegmentation(net)
    for i in range(4):
        for part in ("weight", "bias"):
            state[f"backbone.norm{i}.{part}"] = state.pop(f"backbone.norms.{i}.{part}")
    load_torch_state(net, state)
    assert np.array_equal(net.backbone.norms[2].gamma.asnumpy(), state["backbone.norm2.weight"])


def test_stages_are_the_backbones(capsys):
    net = create_model("semantic_fpn_shapes", num_classes=3)
    assert layout(net).prefix == "backbone." and layout(net).head_names == ("decode_head.conv_seg",)
    finetune.freeze(net, 1)
    frozen = {p.name for p in net.get_parameters() if not p.requires_grad and "moving" not in p.name}
    assert frozen and all(name.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1")) for name in frozen)
    assert "frozen: the stem and 1 of 4 stages" in capsys.readouterr().out


FITTING = [
    (SemanticFPN, "acmix_san_digits"),
    (SemanticFPN, "resnet_digits"),
    (SemanticFPN, "acmix_deit_tiny"),
    (UPerNet, "swin_digits"),
    (UPerNet, "acmix_resnet_digits"),
    (UPerNet, "acmix_deit_tiny"),
]


@pytest.mark.parametrize(("kind", "backbone"), FITTING)
def test_any_backbone_with_maps_fits(kind, backbone):
    """Their finest maps have other strides than 4, and so have the logits; a plain transformer has one map."""
    runtime.start("CPU", "pynative")
    net = create_model(backbone, features_only=True, **({"image_size": 32, "depth": 1} if "deit" in backbone else {}))
    small = {"channels": 16, "auxiliary_channels": 8} if kind is UPerNet else {"channels": 16, "head_channels": 8}
    segmentor = kind(net, 5, **small).set_train(False)
    side = -(-32 // net.feature_strides[0])
    assert segmentor(Tensor(np.zeros((1, 3, 32, 32), np.float32))).shape == (1, 5, side, side)
