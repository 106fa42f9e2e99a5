"""Every detector that has a name: parameters, and of the small ones a step forward and backward."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters

from acmix_ms import runtime
from acmix_ms.analysis.work import count_params
from acmix_ms.errors import UserError
from acmix_ms.objects import Objects
from models import create_model, list_models, model_task, register_model
from models.composed import own_arguments
from models.detection import Detector, detect
from models.detection.mask_rcnn import CascadeMaskRCNN, MaskRCNN
from models.detection.retinanet import RetinaNet

DETECTORS = list_models(task="detection")
SMALL = [name for name in DETECTORS if name.endswith("_shapes")]
# Frozen parameters included. Those that mmdetection and the official backbones give, and where there is no official
# backbone the classifier's number without its head, plus mmdetection's pyramid and head for these channels.
PARAMETERS = {
    "retinanet_resnet50": 37_968_692,
    "retinanet_sasa_resnet50": 18_026_360 - 2049 * 1000 + 7_997_440 + 6_463_220,
    "retinanet_acmix_resnet26": 22_899_476,
    "retinanet_acmix_resnet38": 26_822_556,
    "retinanet_acmix_resnet50": 30_745_636,
    "retinanet_san19": 20_518_470 - 2049 * 1000 + 7_997_440 + 6_463_220,
    "retinanet_acmix_san19": 20_830_304 - 2049 * 1000 + 7_997_440 + 6_463_220,
    "retinanet_pvt_tiny": 22_964_724,
    "retinanet_pvt_small": 34_221_300,
    "retinanet_pvt_large": 71_104_756,
    # Without the classifier: its 513 numbers a class, the last norm and the class token.
    "retinanet_acmix_pvt_tiny": 13_396_128 - 513 * 1000 - 3 * 512 + 3_786_752 + 6_463_220,
    "retinanet_acmix_pvt_small": 24_824_755 - 513 * 1000 - 3 * 512 + 3_786_752 + 6_463_220,
    "mask_rcnn_resnet50": 44_396_336,
    "mask_rcnn_swin_tiny": 47_794_602,
    "mask_rcnn_swin_small": 69_112_506,
    "mask_rcnn_acmix_swin_tiny": 48_156_156,
    "mask_rcnn_acmix_swin_small": 49_577_424 + 2_729_984 + 593_935 + 16_949_985,  # that backbone is UperNet's
    "cascade_mask_rcnn_swin_tiny": 85_629_804,
    "cascade_mask_rcnn_swin_small": 106_947_708,
    "cascade_mask_rcnn_acmix_swin_tiny": 85_991_358,
    "cascade_mask_rcnn_acmix_swin_small": 49_577_424 + 2_729_984 + 593_935 + 54_785_187,
}


def test_every_detector_is_counted():
    assert set(DETECTORS) == {*PARAMETERS, *SMALL}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_exact(name):
    with no_init_parameters():  # their values take longer than the net
        net = create_model(name)
    assert count_params([net]) == PARAMETERS[name]
    names = [parameter.name for parameter in net.get_parameters()]
    assert all(any(name.startswith(f"{head}.") for name in names) for head in net.head_names)


def test_tasks_of_names():
    by_task = [list_models(task=task) for task in ("classification", "detection", "segmentation")]
    assert sorted(sum(by_task, [])) == list_models() == sorted(set(list_models()))
    assert (model_task("acmix_resnet50"), model_task("retinanet_acmix_resnet50")) == ("classification", "detection")
    with pytest.raises(UserError, match="'retinanet_acmix_shape'.*'retinanet_acmix_shapes'"):
        model_task("retinanet_acmix_shape")
    with pytest.raises(UserError, match="task='detections': did you mean 'detection'"):
        list_models(task="detections")
    with pytest.raises(ValueError, match="task='poetry'"):
        register_model(task="poetry")


def test_arguments_are_the_detectors_or_its_backbones():
    assert own_arguments(RetinaNet) == ("channels", "stacked")
    assert {"channels", "hidden", "num_proposals", "samples"} <= set(own_arguments(MaskRCNN))
    assert not {"giou", "low_quality", "further", "num_classes"} & set(own_arguments(CascadeMaskRCNN))
    settled = create_model("mask_rcnn_acmix_shapes", num_proposals=50, hidden=32, num_candidates=[100, 60])
    assert (settled.num_proposals, settled.num_candidates) == (50, [100, 60])
    assert settled.roi_head.bbox_head.fc_cls.weight.shape == (81, 32)
    net = create_model("retinanet_acmix_shapes", mix="sum", channels=32, stacked=1)
    assert isinstance(net, RetinaNet)
    assert net.num_classes == net.bbox_head.num_classes == 80
    assert {cell.mix for _, cell in net.backbone.cells_and_names() if hasattr(cell, "mix")} == {"sum"}
    assert len(net.bbox_head.cls_convs) == 1
    assert net.neck.lateral_convs[0].conv.weight.shape == (32, 128, 1, 1)
    assert net.backbone.feature_strides == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"in_chans": 1}, "does not take this argument: in_chans=1; it takes attn_kernel_size, backend, channels, "),
        ({"channels": 0}, "channels=0: give an integer of at least 1"),
        ({"stacked": "4"}, "stacked='4': give an integer"),
        ({"in_channels": 0}, "in_channels=0: give an integer"),
        ({"mix": "none"}, "mix='none': choose from"),
        ({"features_only": True}, "features_only=True; it takes channels, stacked"),
        ({"hidden": 64}, "does not take this argument: hidden=64; it takes"),
    ],
)
def test_arguments_that_a_detector_cannot_take_are_told_with_its_name(options, told):
    with pytest.raises(UserError, match=f"model 'retinanet_acmix_shapes': .*{told}"):
        create_model("retinanet_acmix_shapes", **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_acmix_shapes", "mask_rcnn_acmix_shapes"])  # cascades: test_mask_rcnn.py
def test_a_small_detector_learns_and_finds(name):
    runtime.start("CPU", "graph")
    net = create_model(name, num_classes=3)
    assert isinstance(net, Detector)
    assert {name.split(".")[0] for name in net.parameters_dict()} == set(net.in_half), "all of it is cast"
    random = np.random.default_rng(0)
    images, size, canvas = Tensor(random.standard_normal((2, 3, 64, 96)).astype(np.float32)), (60, 90), (64, 96)
    boxes = np.float32([[4, 4, 40, 40], [50, 20, 90, 60]])
    masks = np.zeros((2, *canvas), np.uint8)
    masks[0, 4:40, 4:40] = masks[1, 20:60, 50:90] = 1
    objects = Objects(boxes, np.int32([0, 2]), np.zeros((0, 4), np.float32), masks if net.with_masks else None)
    prepared = [net.prepare(objects, canvas, size, np.random.default_rng(i)) for i in range(2)]
    targets = [Tensor(np.stack(arrays)) for arrays in zip(*prepared)]
    parameters = list(net.set_train(True).trainable_params())

    def loss(images, *targets):
        terms = net(images, *targets)
        return sum(terms), terms

    step = ms.jit(ms.value_and_grad(loss, None, parameters, has_aux=True))
    (total, terms), gradients = step(images, *targets)
    assert len(terms) == len(net.terms)
    assert all(np.isfinite(float(term.asnumpy())) and float(term.asnumpy()) > 0 for term in terms)
    assert float(total.asnumpy()) == pytest.approx(sum(float(term.asnumpy()) for term in terms))
    idle = [p.name for p, g in zip(parameters, gradients) if not np.abs(g.asnumpy()).max() > 0]
    # What cancels in the softmax, and maps of the pyramid in which no sampled anchor or region lies.
    allowed = ("conv_p.bias", *(["weight", "bias"] if net.with_masks else []))
    assert not [n for n in idle if not n.endswith(allowed) or not ("conv_p" in n or n.startswith("neck.fpn_convs."))]
    assert all(np.isfinite(g.asnumpy()).all() for g in gradients)

    found = detect(net, images, [size] * 2)
    assert len(found) == 2
    for one in found:
        assert len(one.boxes) == len(one.scores) == len(one.labels)
        assert (one.boxes >= 0).all() and (one.boxes <= [90, 60, 90, 60]).all()
