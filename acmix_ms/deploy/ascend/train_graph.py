"""The train step as a Cell, so that its graph can be exported and looked at; it is never run."""

from __future__ import annotations

from types import SimpleNamespace

import mindspore as ms
from mindspore import nn

from acmix_ms.config import Config
from acmix_ms.engine.trainer import Trainer


class TrainStep(nn.Cell):
    """(images, labels) -> (loss, gradients finite): the step of `Trainer` as ``train.py`` runs it. Needs PyNative mode.

    Args:
        net: it is switched to training.
        config: of precision, optimizer, moving average, clipping; ``data.batch_size`` images. Nothing is written.
    """

    def __init__(self, net: nn.Cell, config: Config):
        super().__init__(auto_prefix=False)
        if ms.get_context("mode") == ms.GRAPH_MODE:
            raise ValueError("TrainStep needs PyNative mode: in graph mode the trainer's step is compiled already")
        # Of its loader the trainer asks for the batch size only, until it trains.
        trainer = Trainer(net, config, SimpleNamespace(batch_size=config.data.batch_size), None)
        self.net, self.optimizer, self.average = net, trainer.optimizer, trainer.average
        # An export takes Parameters of Cells alone; these belong to none.
        others = [*vars(trainer.scaler).values(), *vars(trainer.draws).values()]
        for parameter in others:
            if isinstance(parameter, ms.Parameter):
                self.insert_param_to_cell(parameter.name, parameter)
        trainer.model.set_train(True)
        self.step = trainer.train_step

    def construct(self, images, labels):
        loss, _, finite = self.step(images, labels)
        return loss, finite
