"""RoIAlign, mask targets, proposals and the choice of RoIs beside mmdetection's."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from acmix_ms import runtime
from models.detection import roi_align


def drawn(seed, shape):
    return np.random.RandomState(int(seed)).standard_normal(tuple(map(int, shape))).astype(np.float32)


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize(("form", "samples"), [("align", 2), ("align_any", 2), ("align_any", 0)])
def test_roi_align(vectors, form, samples, size):
    """With boxes outside of the map and across its border, small and large ones; and its gradient."""
    runtime.start("CPU", "graph")
    file = vectors("dense/roi_align")
    align, stride = getattr(roi_align, form), int(1 / file["spatial_scale"])
    expected = file[f"out_{size}_sr{samples}"]
    weight, rois = Tensor(drawn(file[f"grad_output_seed_{size}"], expected.shape)), Tensor(file["rois"])

    def total(x):
        found = align(x, rois, stride, size, samples)
        return (found * weight).sum(), found

    (_, found), gradient = ms.value_and_grad(total, has_aux=True)(Tensor(file["feat"]))
    assert relative(found.asnumpy(), expected) < 1e-5
    assert relative(gradient.asnumpy(), file[f"grad_feat_{size}_sr{samples}"]) < 1e-5


def test_roi_align_of_a_pyramid(vectors):
    runtime.start("CPU", "graph")
    file = vectors("dense/roi_align")
    maps = tuple(Tensor(drawn(seed, shape)) for seed, shape in zip(file["ml_feat_seeds"], file["ml_feat_shapes"]))
    rois = Tensor(file["ml_rois"])
    assert np.array_equal(roi_align.levels_of(rois[:, 1:], 4).asnumpy(), file["ml_levels"])
    found = roi_align.RoIExtractor((4, 8, 16, 32), 7, 0)(maps, rois).asnumpy()
    assert relative(found, file["ml_out"]) < 1e-4
