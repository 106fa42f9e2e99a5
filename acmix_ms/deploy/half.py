"""A net that computes in 16 bits, for a file."""

from __future__ import annotations

import copy

import mindspore as ms
from mindspore import Tensor, nn

from acmix_ms.engine import precision


class Half(nn.Cell):
    """float32 in, float32 out (integers stay what they are), float16 between; norms, softmax and position terms stay
    in float32.

    Weights are float16, so that the file is half as large. ``net`` is left as it is.
    """

    def __init__(self, net: nn.Cell):
        super().__init__(auto_prefix=False)
        net = copy.deepcopy(net)
        norms = [cell for _, cell in net.cells_and_names() if isinstance(cell, (nn.BatchNorm2d, nn.LayerNorm))]
        kept = {id(value) for norm in norms for value in norm.get_parameters()}
        for value in net.get_parameters():
            if id(value) not in kept and value.dtype == ms.float32:
                value.set_dtype(ms.float16)
        self.net = precision.cast(net, "fp16")

    def construct(self, x: Tensor):
        return precision.single(self.net(x.astype(ms.float16)))
