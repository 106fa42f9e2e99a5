"""The training loop: one epoch after the other, train, validate, log, save."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import math
from pathlib import Path

import mindspore as ms
from mindspore import nn, ops

from acmix_ms import config as configuration
from acmix_ms import runtime
from acmix_ms.analysis import figures
from acmix_ms.config import Config
from acmix_ms.data.loader import Loader
from acmix_ms.engine import checkpoint, events, finetune, parallel, precision, report, run_dir
from acmix_ms.engine.draws import Draws
from acmix_ms.engine.ema import WeightAverage
from acmix_ms.engine.evaluation import build_predictor, compiled, evaluate
from acmix_ms.engine.logger import EpochLog, Progress
from acmix_ms.engine.losses import cross_entropy
from acmix_ms.engine.optim import build_optimizer, learning_rate, optimizer_state, set_learning_rate, total_steps
from acmix_ms.engine.signals import Stopped, StopRequest
from acmix_ms.errors import UserError
from acmix_ms.files import write_text
from acmix_ms.ops.base import recompute_operators


@dataclasses.dataclass
class EpochSoFar:
    """Where a run stands within an epoch."""

    steps: int = 0  # batches that are done
    counted: int = 0  # those of them whose loss counts
    loss_sum: float = 0.0

    def add(self, loss: float, counts: bool) -> None:
        """One more step; where its gradients were not finite, its loss does not count."""
        self.steps += 1
        if counts:
            self.counted += 1
            self.loss_sum += loss

    def mean_loss(self) -> float:
        """Of the steps that count."""
        return self.loss_sum / max(1, self.counted)


class Trainer:
    """Train a net as a configuration says; in a group of processes, each on its part of every batch.

    All of them go on from rank 0's weights and epoch, and only rank 0 writes.

    Args:
        net: logits (B, classes) from images (B, 3, H, W) float32.
        config: all of it; ``config.run_dir`` receives checkpoints, logs and the report.
        train_loader, val_loader: the two splits.

    Raises:
        UserError: from the constructor when the precision or a checkpoint to resume from cannot be used, or the net
            has not the stages that are to be frozen or slowed down.
    """

    def __init__(self, net: nn.Cell, config: Config, train_loader: Loader, val_loader: Loader):
        precision.require_precision(config.train.precision, ms.get_context("device_target"))
        self.net, self.config = net, config
        self.train_loader, self.val_loader = train_loader, val_loader
        self.run_dir = Path(config.run_dir)
        self.epoch, self.done = 0, EpochSoFar()  # epochs done, and how much of the next one
        self.best_top1 = -1.0

        finetune.freeze(net, config.model.frozen_stages)
        self.optimizer = build_optimizer(net, config.optim)
        self.scaler = precision.build_scaler(config.train.precision)
        if config.train.recompute:
            recompute_operators(net)
        self.average = WeightAverage(net, config.train.ema_decay) if config.train.ema_decay else None
        # A benchmark has no loaders: there MindSpore draws.
        self.draws = Draws(net, train_loader.batch_size, config.seed) if train_loader is not None else None
        self.model = precision.cast(net, config.train.precision)  # computes; self.net keeps the plain names
        if config.train.resume:
            self._resume()
        self._take_over_from_rank_0()
        self.train_step = self._build_train_step()
        self.predict = build_predictor(self.model)

    @functools.cached_property
    def total_steps(self) -> int:
        """The length of the run."""
        return total_steps(self.config.optim, len(self.train_loader))

    @property
    def epochs(self) -> int:
        """The same in epochs; the last one may be cut short."""
        return -(-self.total_steps // len(self.train_loader))

    def fit(self) -> dict:
        """Train until ``config.optim.epochs`` epochs, or ``config.optim.iterations`` steps, are done.

        Returns:
            ``best_top1`` in percent, ``epochs`` and ``steps`` done, ``img_per_s`` of the training steps.

        Raises:
            UserError: the loss is not finite; checkpoints from before stay.
            Stopped: SIGTERM or SIGINT came, and the state is saved.
        """
        config, steps = self.config, len(self.train_loader)
        # What is written is what trained; whether it was a continuation is of no use to the next one.
        written = dataclasses.replace(
            config, train=dataclasses.replace(config.train, resume=False, allow_changes=False)
        )
        if runtime.leads():
            configuration.dump(written, self.run_dir / run_dir.CONFIG)
            write_text(self.run_dir / run_dir.ENVIRONMENT, json.dumps(report.environment(), indent=1) + "\n")
        log = EpochLog(self.run_dir, self.epoch, write=runtime.leads())
        with StopRequest() as stop, self._events() as record:
            progress = Progress(
                epochs=self.epochs,
                steps_per_epoch=steps,
                images_per_step=self._global_batch(),
                log_every=config.train.log_every,
                scale=lambda: precision.loss_scale(self.scaler),
                record=record,
                remedy=self.train_loader.remedy,
            )
            try:
                for epoch in range(self.epoch, self.epochs):
                    train_loss, lr = self._train_epoch(epoch, progress, stop)
                    progress.end_epoch(epoch + 1)
                    scores = self._validate(stop)
                    self.epoch, self.done = epoch + 1, EpochSoFar()
                    record(self._steps_done(), {f"val/{name}": scores[name] for name in ("loss", "top1", "top5")})
                    log.add(
                        figures.collect_rates(self.net),
                        epoch=self.epoch,
                        step=self._steps_done(),
                        train_loss=train_loss,
                        lr=lr,
                        img_per_s=progress.images_per_second,
                        val_loss=scores["loss"],
                        val_top1=scores["top1"],
                        val_top5=scores["top5"],
                    )
                    self._save(scores)
                    self._stop_if_asked(stop)
            except Stopped as stopped:
                if self.done.steps:  # else an epoch has just ended, and its state is there
                    self._save()
                place = f"after step {self._steps_done()}"
                print(f"stopped by {stopped.name} {place}: go on with train.resume=true", flush=True)
                raise
        log.draw()
        self._report()
        return {
            "best_top1": self.best_top1,
            "epochs": self.epoch,
            "steps": self._steps_done(),
            "img_per_s": progress.images_per_second,
        }

    def _train_epoch(self, epoch: int, progress: Progress, stop: StopRequest) -> tuple[float, float]:
        """What is left of one pass over the training data; returns the mean loss and the last learning rate."""
        self.model.set_train(True)
        steps, save_every, done = len(self.train_loader), self.config.train.save_every_steps, self.done
        skipped = 0
        end = min(steps, self.total_steps - epoch * steps)  # of the last epoch, where the length is given in steps
        batches = itertools.islice(self.train_loader.epoch(epoch, done.steps), max(0, end - done.steps))
        for images, labels in progress.waiting(batches):
            step = epoch * steps + done.steps
            lr = self._learning_rate(step)
            set_learning_rate(self.optimizer, lr)
            self.draws.renew(step)
            loss, finite = self.train_step(ms.Tensor(images), ms.Tensor(labels))
            loss, finite = float(loss.asnumpy()), bool(finite.asnumpy())
            skipped = 0 if finite else skipped + 1
            self._stop_if_lost(loss, skipped, step, lr)
            done.add(loss, finite)
            progress.step(epoch + 1, done.steps, loss, lr)
            if save_every and (step + 1) % save_every == 0 and done.steps < end:
                self._save()
            self._stop_if_asked(stop)
        return done.mean_loss(), self._learning_rate(epoch * steps + end - 1)

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, self.config.optim, len(self.train_loader), self._global_batch())

    def _events(self) -> contextlib.AbstractContextManager[events.Record]:
        wanted = self.config.train.events and runtime.leads()
        return events.recorder(self.run_dir / run_dir.EVENTS, self._steps_done(), wanted)

    def _report(self) -> None:
        if not runtime.leads():
            return
        try:
            report.write(self.run_dir)
        except UserError as error:
            print(f"warning: no {run_dir.REPORT}: {error}", flush=True)  # it can be made any time

    def _validate(self, stop: StopRequest) -> dict:
        """Scores of the net, with the averages for its weights where there are some."""

        def predict(images):
            self._stop_if_asked(stop)
            return self.predict(images)

        self._average_statistics()
        with self.average.applied() if self.average else contextlib.nullcontext():
            scores = evaluate(self.model, self.val_loader, predict)
        print(
            f"epoch {self.epoch + 1}/{self.epochs}  validation: loss {scores['loss']:.4f}  "
            f"top-1 {scores['top1']:.2f} %  top-5 {scores['top5']:.2f} %  ({scores['count']} images)",
            flush=True,
        )
        return scores

    def _average_statistics(self) -> None:
        """Let all ranks have the same running statistics, and the same moving averages of them."""
        found = parallel.statistics(self.net)
        if self.average:
            averages = self.average.named()
            found = [*found, *(averages[parameter.name] for parameter in found)]
        parallel.average(found)

    def _stop_if_asked(self, stop: StopRequest) -> None:
        number = int(parallel.gather((stop.number or 0,)).max())  # all ranks stop at the same step
        if number:
            raise Stopped(number)

    def _steps_done(self) -> int:
        return min(self.epoch * len(self.train_loader) + self.done.steps, self.total_steps)

    def _stop_if_lost(self, loss: float, skipped: int, step: int, lr: float) -> None:
        scaled = (
            self.config.train.precision in precision.SCALED
        )  # there single overflows are normal: the step is skipped
        if skipped > precision.MAX_SKIPPED or not (scaled or (math.isfinite(loss) and skipped == 0)):
            what = f"{skipped} steps in a row overflowed" if scaled else f"the loss is {loss}"
            if math.isfinite(loss) and not scaled:
                what = "the gradients are not finite"
            raise UserError(
                f"training stopped: {what} at step {step + 1} (epoch {self.epoch + 1}, lr {lr:.3g}); "
                "checkpoints from before are kept; lower optim.lr, or set optim.clip_norm or a longer warm-up"
            )

    def _build_train_step(self):
        """``(images, labels) -> (loss, gradients finite)``; updates weights and optimizer where they are finite.

        The condition stands in the graph: one that has a condition runs kernel after kernel on CPU, each on all cores.
        Without it independent kernels of the gradients run at the same time, and take twice as long.
        """
        model, optimizer, scaler, average = self.model, self.optimizer, self.scaler, self.average
        smoothing, clip_norm = self.config.loss.label_smoothing, self.config.optim.clip_norm

        def forward(images, labels):
            logits = model(images).astype(ms.float32)
            loss = cross_entropy(logits, labels, smoothing)
            return scaler.scale(loss), loss

        mean = parallel.build_mean(optimizer.parameters)
        gradients_of = ms.value_and_grad(forward, None, optimizer.parameters, has_aux=True)

        def train_step(images, labels):
            (_, loss), gradients = gradients_of(images, labels)
            loss, gradients = mean(loss, gradients)  # before all that follows, so that all ranks do the same
            gradients = scaler.unscale(gradients)
            finite = precision.all_finite(gradients)
            if finite:
                if clip_norm > 0:
                    gradients = ops.clip_by_global_norm(gradients, clip_norm)
                optimizer(gradients)
                if average is not None:
                    average()
            scaler.adjust(finite)
            return loss, finite

        return compiled(train_step)

    def _global_batch(self) -> int:
        return self.train_loader.batch_size * self.train_loader.size

    def _save(self, scores: dict | None = None) -> None:
        """Write the training state, after an epoch with its ``scores`` also ``best.ckpt`` if it is the best so far.

        Where that fails (a full disk), the states before stay, and the training goes on to the next attempt.
        """
        if self.done.steps:  # after an epoch validation has seen to it
            self._average_statistics()
        weights = self.net.parameters_dict()
        best_before, top1 = self.best_top1, scores and scores["top1"]
        is_best = top1 is not None and top1 > best_before
        self.best_top1 = top1 if is_best else best_before
        meta = {
            "model": self.config.model.name,
            "num_classes": self.train_loader.num_classes,
            "class_names": self.train_loader.class_names,
            "epoch": self.epoch,
            "step": self._steps_done(),
            "in_epoch": dataclasses.asdict(self.done),
            "steps_per_epoch": len(self.train_loader),
            "global_batch": self._global_batch(),
            "top1": top1,
            "best_top1": self.best_top1,
            "config": configuration.to_yaml(self.config),
        }
        if not runtime.leads():
            return
        try:
            if is_best:
                best = self.average.named() if self.average else weights
                checkpoint.save(self.run_dir / run_dir.BEST, best, meta={**meta, "averaged": bool(self.average)})
                found = {"epoch": self.epoch, **scores}
                write_text(self.run_dir / run_dir.BEST_SCORES, json.dumps(found, indent=1) + "\n")
            checkpoint.save_state(self.run_dir, weights, self._state(), meta, keep=self.config.train.keep_checkpoints)
        except UserError as error:
            self.best_top1 = best_before
            if self.epoch == self.epochs:
                raise  # there is no later attempt
            print(f"warning: {error}; training goes on", flush=True)

    def _state(self) -> dict[str, ms.Parameter]:
        """Everything beside the weights that decides how training goes on, by name."""
        state = {f"optimizer.{name}": value for name, value in optimizer_state(self.optimizer).items()}
        state.update({f"scaler.{name}": value for name, value in precision.scaler_state(self.scaler).items()})
        return {**state, **(self.average.state() if self.average else {})}

    def _take_over_from_rank_0(self) -> None:
        """Also where a host has no run folder to resume from, and whatever each process drew its weights from."""
        parallel.broadcast([*self.net.get_parameters(), *self._state().values()])
        place = parallel.gather((self.epoch, self.best_top1, *dataclasses.astuple(self.done)))[0].tolist()
        if not runtime.leads():
            self.epoch, self.best_top1 = int(place[0]), place[1]
            self.done = EpochSoFar(int(place[2]), int(place[3]), place[4])

    def _resume(self) -> None:
        found = checkpoint.newest_state(self.run_dir)
        if found is None:
            print(f"no training state in {self.run_dir} yet: training starts from the beginning", flush=True)
            return
        path, saved = found
        self._check_resumable(saved, path)
        checkpoint.assign_weights(self.net, saved, path)
        for name, parameter in self._state().items():
            runtime.assign(parameter, saved.state[name])
        self.epoch, self.best_top1 = saved.meta["epoch"], saved.meta["best_top1"]
        self.done = EpochSoFar(**saved.meta["in_epoch"])
        within = f" and {self.done.steps} steps" if self.done.steps else ""
        best = f"best top-1 {self.best_top1:.2f} %" if self.best_top1 >= 0 else "no validation yet"
        print(f"resumed from {path}: {self.epoch} epochs{within} done, {best}", flush=True)

    def _check_resumable(self, saved: checkpoint.Checkpoint, path: Path) -> None:
        """Refuse to go on with other data, another optimizer or, unless told, any other configuration."""
        changes = configuration.differences(saved.meta.get("config", ""), self.config)
        if changes and not self.config.train.allow_changes:
            raise UserError(
                f"{path} was saved with another configuration ({'; '.join(changes)}): take the old values, "
                "or go on with the new ones by train.allow_changes=true"
            )
        if set(self._state()) != set(saved.state) or "in_epoch" not in saved.meta:
            raise UserError(
                f"{path} was saved with another optim.name, model.frozen_stages, train.precision, train.ema_decay or "
                "version: resume with the same, or give another run_dir"
            )
        steps, batch = saved.meta["steps_per_epoch"], saved.meta["global_batch"]
        if (steps, batch) != (len(self.train_loader), self._global_batch()):
            raise UserError(
                f"{path} was saved with {steps} steps per epoch of {batch} images, now there are "
                f"{len(self.train_loader)} of {self._global_batch()}: resume with the same data and global batch, "
                "or give another run_dir"
            )
