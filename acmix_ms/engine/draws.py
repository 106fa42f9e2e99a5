"""Random numbers that a net takes while it trains, drawn on the host: a function of seed and step, so that a run that
goes on after an interruption, or in another number of processes, takes the same.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from acmix_ms import runtime

STREAM = 4  # beside those of acmix_ms.data.loader, which come from the same seed


class Draws:
    """What the Cells of a net that have ``use_draws`` take: see `models.layers.DropPath`.

    Args:
        net: is told where to find its numbers.
        batch_size: of one process.
        seed: of the run.
    """

    def __init__(self, net: nn.Cell, batch_size: int, seed: int):
        takers = [cell for _, cell in net.cells_and_names() if hasattr(cell, "use_draws") and cell.rate > 0]
        self._shape, self._seed = (sum(cell.BRANCHES for cell in takers), batch_size), seed
        self._numbers = None
        if takers:
            self._numbers = Parameter(Tensor(np.zeros(self._shape, np.float32)), name="draws", requires_grad=False)
        first = 0
        for cell in takers:
            cell.use_draws(self._numbers, first)
            first += cell.BRANCHES

    def renew(self, step: int) -> None:
        """Draw for step number ``step``: for the samples of all ranks, of which this one takes its part."""
        if self._numbers is None:
            return
        rows, batch = self._shape
        random = np.random.default_rng([self._seed, step, STREAM])
        drawn = random.random((rows, runtime.world_size(), batch), np.float32)
        runtime.assign(self._numbers, ms.Tensor(drawn[:, runtime.rank()]))
