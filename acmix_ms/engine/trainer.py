"""The training loop: one epoch after the other, train, validate, log, save."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import mindspore as ms
from mindspore import nn, ops

from acmix_ms import config as configuration
from acmix_ms import runtime
from acmix_ms.config import Config
from acmix_ms.data.loader import Loader
from acmix_ms.engine import checkpoint, precision, run_dir
from acmix_ms.engine.evaluation import build_predictor, compiled, evaluate
from acmix_ms.engine.logger import EpochLog, Progress
from acmix_ms.engine.optim import build_optimizer, learning_rate, optimizer_state, set_learning_rate
from acmix_ms.errors import UserError
from acmix_ms.ops.base import recompute_operators


class Trainer:
    """Train a net as a configuration says.

    Args:
        net: logits (B, classes) from images (B, 3, H, W) float32.
        config: all of it; ``config.run_dir`` receives checkpoints, log and curves.
        train_loader, val_loader: the two splits.

    Raises:
        UserError: from the constructor when the precision or a checkpoint to resume from cannot be used.
    """

    def __init__(self, net: nn.Cell, config: Config, train_loader: Loader, val_loader: Loader):
        precision.require_precision(config.train.precision, ms.get_context("device_target"))
        self.net, self.config = net, config
        self.train_loader, self.val_loader = train_loader, val_loader
        self.run_dir = Path(config.run_dir)
        self.epoch = 0  # epochs done
        self.best_top1 = -1.0

        self.optimizer = build_optimizer(net, config.optim)
        self.scaler = precision.build_scaler(config.train.precision)
        if config.train.recompute:
            recompute_operators(net)
        self.model = precision.cast(net, config.train.precision)  # computes; self.net keeps the plain names
        if config.train.resume:
            self._resume()
        self.train_step = self._build_train_step()
        self.predict = build_predictor(self.model)

    def fit(self) -> dict:
        """Train until ``config.optim.epochs`` epochs are done.

        Returns:
            ``best_top1`` in percent, ``epochs`` and ``steps`` done, ``img_per_s`` of the training steps.

        Raises:
            UserError: the loss is not finite; checkpoints from before stay.
        """
        config, steps = self.config, len(self.train_loader)
        # What is written is what trained; whether it was a continuation is of no use to the next one.
        written = dataclasses.replace(config, train=dataclasses.replace(config.train, resume=False))
        configuration.dump(written, self.run_dir / run_dir.CONFIG)
        log = EpochLog(self.run_dir, self.epoch)
        progress = Progress(
            epochs=config.optim.epochs,
            steps_per_epoch=steps,
            images_per_step=self._global_batch(),
            log_every=config.train.log_every,
        )
        for epoch in range(self.epoch, config.optim.epochs):
            train_loss, lr = self._train_epoch(epoch, progress)
            progress.pause()
            scores = evaluate(self.model, self.val_loader, self.predict)
            self.epoch = epoch + 1
            print(
                f"epoch {self.epoch}/{config.optim.epochs}  validation: loss {scores['loss']:.4f}  "
                f"top-1 {scores['top1']:.2f} %  top-5 {scores['top5']:.2f} %  ({scores['count']} images)",
                flush=True,
            )
            log.add(
                epoch=self.epoch,
                step=self.epoch * steps,
                train_loss=train_loss,
                lr=lr,
                img_per_s=progress.images_per_second,
                val_loss=scores["loss"],
                val_top1=scores["top1"],
                val_top5=scores["top5"],
            )
            self._save(scores["top1"])
        log.draw()
        return {
            "best_top1": self.best_top1,
            "epochs": self.epoch,
            "steps": self.epoch * steps,
            "img_per_s": progress.images_per_second,
        }

    def _train_epoch(self, epoch: int, progress: Progress) -> tuple[float, float]:
        """One pass over the training data; returns the mean loss and the last learning rate."""
        self.model.set_train(True)
        steps, skipped, losses, lr = len(self.train_loader), 0, [], 0.0
        for i, (images, labels) in enumerate(self.train_loader.epoch(epoch)):
            step = epoch * steps + i
            lr = learning_rate(step, self.config.optim, steps, self._global_batch())
            set_learning_rate(self.optimizer, lr)
            loss, finite = self.train_step(ms.Tensor(images), ms.Tensor(labels))
            loss, finite = float(loss.asnumpy()), bool(finite.asnumpy())
            skipped = 0 if finite else skipped + 1
            self._stop_if_lost(loss, skipped, step, lr)
            if finite:
                losses.append(loss)
            progress.step(epoch + 1, i + 1, loss, lr)
        return sum(losses) / max(1, len(losses)), lr

    def _stop_if_lost(self, loss: float, skipped: int, step: int, lr: float) -> None:
        scaled = self.config.train.precision != "fp32"  # there single overflows are normal: the step is skipped
        if skipped > precision.MAX_SKIPPED or not (scaled or (math.isfinite(loss) and skipped == 0)):
            what = f"{skipped} steps in a row overflowed" if scaled else f"the loss is {loss}"
            if math.isfinite(loss) and not scaled:
                what = "the gradients are not finite"
            raise UserError(
                f"training stopped: {what} at step {step + 1} (epoch {self.epoch + 1}, lr {lr:.3g}); "
                "checkpoints from before are kept; lower optim.lr, or set optim.clip_norm or a longer warm-up"
            )

    def _build_train_step(self):
        """``(images, labels) -> (loss, gradients finite)``, and the update.

        In 16 bits overflows are normal: weights and optimizer then stay as they are. In float32 they end the training
        (`_stop_if_lost`), and the update goes without a condition, which would copy every weight and moment.
        """
        model, optimizer, scaler = self.model, self.optimizer, self.scaler
        smoothing, clip_norm = self.config.optim.label_smoothing, self.config.optim.clip_norm
        scaled = self.config.train.precision != "fp32"

        def forward(images, labels):
            logits = model(images).astype(ms.float32)
            loss = ops.cross_entropy(logits, labels, label_smoothing=smoothing)
            return scaler.scale(loss), loss

        gradients_of = ms.value_and_grad(forward, None, optimizer.parameters, has_aux=True)

        def update(gradients):
            if clip_norm > 0:
                gradients = ops.clip_by_global_norm(gradients, clip_norm)
            optimizer(gradients)

        def train_step(images, labels):
            (_, loss), gradients = gradients_of(images, labels)
            if not scaled:
                finite = precision.all_finite(gradients)
                update(gradients)
                return loss, finite
            gradients = scaler.unscale(gradients)
            finite = precision.all_finite(gradients)
            if finite:
                update(gradients)
            scaler.adjust(finite)
            return loss, finite

        return compiled(train_step)

    def _global_batch(self) -> int:
        return self.train_loader.batch_size * self.train_loader.size

    def _save(self, top1: float) -> None:
        """Write ``best.ckpt`` if this is the best so far, then ``last.ckpt``, which makes the epoch count."""
        weights = self.net.parameters_dict()
        is_best = top1 > self.best_top1
        self.best_top1 = max(self.best_top1, top1)
        meta = {
            "model": self.config.model.name,
            "num_classes": self.train_loader.num_classes,
            "class_names": self.train_loader.class_names,
            "epoch": self.epoch,
            "step": self.epoch * len(self.train_loader),
            "steps_per_epoch": len(self.train_loader),
            "top1": top1,
            "best_top1": self.best_top1,
            "config": configuration.to_yaml(self.config),
        }
        if is_best:
            checkpoint.save(self.run_dir / run_dir.BEST, weights, meta=meta)
        checkpoint.save(self.run_dir / run_dir.LAST, weights, self._state(), meta)

    def _state(self) -> dict[str, ms.Parameter]:
        """Everything beside the weights that decides how training goes on, by name."""
        state = {f"optimizer.{name}": value for name, value in optimizer_state(self.optimizer).items()}
        state.update({f"scaler.{name}": value for name, value in precision.scaler_state(self.scaler).items()})
        return state

    def _resume(self) -> None:
        path = self.run_dir / run_dir.LAST
        if not path.exists():
            print(f"no {path} yet: training starts from the beginning", flush=True)
            return
        saved = checkpoint.read(path)
        checkpoint.assign_weights(self.net, saved, path)
        state = self._state()
        if set(state) != set(saved.state) or "epoch" not in saved.meta:
            raise UserError(
                f"{path} was saved with another optim.name or train.precision: "
                "resume with the same, or give another run_dir"
            )
        steps = saved.meta["steps_per_epoch"]
        if steps != len(self.train_loader):
            raise UserError(
                f"{path} was saved with {steps} steps per epoch, now there are {len(self.train_loader)}: "
                "resume with the same data and data.batch_size, or give another run_dir"
            )
        for name, parameter in state.items():
            runtime.assign(parameter, saved.state[name])
        self.epoch, self.best_top1 = saved.meta["epoch"], saved.meta["best_top1"]
        print(f"resumed from {path}: {self.epoch} epochs done, best top-1 {self.best_top1:.2f} %", flush=True)
