"""The training loop: one epoch after the other, train, validate, log, save."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import mindspore as ms
from mindspore import nn

from acmix_ms import config as configuration
from acmix_ms import runtime
from acmix_ms.analysis import figures
from acmix_ms.config import Config
from acmix_ms.data.loader import Loader, prefetched
from acmix_ms.engine import checkpoint, events, finetune, losses, parallel, precision, report, run_dir
from acmix_ms.engine.draws import Draws
from acmix_ms.engine.ema import WeightAverage
from acmix_ms.engine.evaluation import Predictor, build_predictor, evaluate
from acmix_ms.engine.logger import EpochLog, Progress, curve_names
from acmix_ms.engine.metrics import Accuracy, Evaluator, Metric
from acmix_ms.engine.optim import build_optimizer, learning_rate, optimizer_state, set_learning_rate, total_steps
from acmix_ms.engine.signals import Stopped, StopRequest
from acmix_ms.engine.standing import Best, EpochSoFar
from acmix_ms.engine.step import Step, build_train_step
from acmix_ms.errors import UserError
from acmix_ms.files import write_text
from acmix_ms.ops.base import recompute_operators

AGREE_EVERY = 10  # steps of a group; so many may pass until a signal is answered


class Trainer:
    """Train a net as a configuration says; in a group of processes, each on its part of every batch.

    All of them go on from rank 0's weights and epoch, and only rank 0 writes.

    Args:
        net: outputs from images (B, 3, H, W) float32.
        config: all of it; ``config.run_dir`` receives checkpoints, logs and the report.
        train_loader, val_loader: the two splits.
        loss: see `acmix_ms.engine.losses.Loss`; by default that of classification.
        make_evaluator: gives a new evaluator for each validation; by default that of classification.
        make_predictor: from the net that computes to what `evaluate` takes; by default `build_predictor`.

    Raises:
        UserError: from the constructor when the precision or a checkpoint to resume from cannot be used, or the net
            has not the stages that are to be frozen or slowed down.
    """

    def __init__(
        self,
        net: nn.Cell,
        config: Config,
        train_loader: Loader,
        val_loader: Loader,
        *,
        loss: losses.Loss | None = None,
        make_evaluator: Callable[[], Evaluator] | None = None,
        make_predictor: Callable[[nn.Cell], Predictor] = build_predictor,
    ):
        precision.require_precision(config.train.precision, ms.get_context("device_target"))
        self.net, self.config = net, config
        self.train_loader, self.val_loader = train_loader, val_loader
        self.run_dir = Path(config.run_dir)
        self.epoch, self.done = 0, EpochSoFar()  # epochs done, and how much of the next one
        self.best: Best | None = None
        self.loss = loss or losses.classification(config.loss.label_smoothing)
        self.make_evaluator = make_evaluator or (lambda: Accuracy(val_loader.class_names))

        finetune.freeze(net, config.model.frozen_stages)
        if config.model.norm_eval:
            finetune.keep_statistics(net)
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
        self.train_step = build_train_step(
            self.model, self.loss, self.optimizer, self.scaler, self.average, config.optim.clip_norm
        )
        self.predict = make_predictor(self.model)

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
            ``best`` (`Best`, None if nothing was better than nan) and ``best_told``, the same in words; ``epochs`` and
            ``steps`` done, ``img_per_s`` of the training steps.

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
        metrics = self.make_evaluator().metrics
        log = EpochLog(self.run_dir, metrics, self.epoch, write=runtime.leads())
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
                    means, lr = self._train_epoch(epoch, progress, stop)
                    progress.end_epoch(epoch + 1)
                    scores = self._validate(stop)
                    self.epoch, self.done = epoch + 1, EpochSoFar()
                    record(self._steps_done(), {f"val/{metric.name}": scores[metric.name] for metric in metrics})
                    log.add(
                        figures.collect_rates(self.net),
                        epoch=self.epoch,
                        step=self._steps_done(),
                        **{f"train_{name}": value for name, value in means.items()},
                        lr=lr,
                        img_per_s=progress.images_per_second,
                        **{f"val_{metric.name}": scores[metric.name] for metric in metrics},
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
            "best": self.best,
            "best_told": self.best and metrics[0].told(self.best.value),
            "epochs": self.epoch,
            "steps": self._steps_done(),
            "img_per_s": progress.images_per_second,
        }

    def _train_epoch(self, epoch: int, progress: Progress, stop: StopRequest) -> tuple[dict[str, float], float]:
        """What is left of one pass over the training data; returns the mean losses and the last learning rate."""
        self.model.set_train(True)
        steps, first, save_every = len(self.train_loader), self.done.steps, self.config.train.save_every_steps
        end = min(steps, self.total_steps - epoch * steps)  # of the last epoch, where the length is given in steps
        unread: list[Step] = []
        self._skipped = 0
        with contextlib.closing(prefetched(self.train_loader.epoch(epoch, first))) as made:
            batches = progress.waiting(itertools.islice(made, max(0, end - first)))
            for number, (images, targets, _) in enumerate(batches, first + 1):
                step = epoch * steps + number - 1
                lr = self._learning_rate(step)
                set_learning_rate(self.optimizer, lr)
                self.draws.renew(step)
                unread.append(Step(step, lr, *self.train_step(*map(runtime.to_device, (images, *targets)))))
                saves = save_every and (step + 1) % save_every == 0 and number < end
                # What a step gives is read now and then, because reading waits for the device; the first one of an
                # epoch at once, since the time is taken from there.
                stopped = self._asked_to_stop(stop) if self._agrees(step) else 0
                if saves or stopped or number in (first + 1, end) or number % self.config.train.log_every == 0:
                    self._read(unread, epoch, progress)
                if saves:
                    self._save()
                if stopped:
                    raise Stopped(stopped)
        return self.done.means(), self._learning_rate(epoch * steps + end - 1)

    def _read(self, unread: list[Step], epoch: int, progress: Progress) -> None:
        """Account for steps whose results were left on the device, and forget them."""
        for step, lr, loss, terms, finite in unread:
            loss, finite = float(loss.asnumpy()), bool(finite.asnumpy())
            terms = {name: float(term.asnumpy()) for name, term in terms.items()}
            self._skipped = 0 if finite else self._skipped + 1
            self._stop_if_lost(loss, self._skipped, step, lr)
            self.done.add(loss, terms, finite)
            progress.step(epoch + 1, self.done.steps, loss, lr, terms)
        unread.clear()

    @staticmethod
    def _agrees(step: int) -> bool:
        """Whether a group asks after this step who was told to stop: asking waits for all."""
        return runtime.world_size() == 1 or step % AGREE_EVERY == 0

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

        def predict(images, *targets):
            self._stop_if_asked(stop)
            return self.predict(images, *targets)

        self._average_statistics()
        evaluator = self.make_evaluator()
        with self.average.applied() if self.average else contextlib.nullcontext():
            scores = evaluate(self.model, self.val_loader, predict, evaluator)
        print(
            f"epoch {self.epoch + 1}/{self.epochs}  validation: {evaluator.told(scores)}  ({scores['count']} images)",
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

    def _asked_to_stop(self, stop: StopRequest) -> int:
        """The signal that some rank was sent, or 0: all ranks stop at the same step."""
        return int(parallel.gather((stop.number or 0,)).max())

    def _stop_if_asked(self, stop: StopRequest) -> None:
        number = self._asked_to_stop(stop)
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

    def _global_batch(self) -> int:
        return self.train_loader.batch_size * self.train_loader.size

    def _save(self, scores: dict | None = None) -> None:
        """Write the training state, after an epoch with its ``scores`` also ``best.ckpt`` if it is the best so far.

        Where that fails (a full disk), the states before stay, and the training goes on to the next attempt.
        """
        if self.done.steps:  # after an epoch validation has seen to it
            self._average_statistics()
        weights = self.net.parameters_dict()
        meta = {
            "model": self.config.model.name,
            "num_classes": self.train_loader.num_classes,
            "class_names": self.train_loader.class_names,
            "epoch": self.epoch,
            "step": self._steps_done(),
            "in_epoch": dataclasses.asdict(self.done),
            "steps_per_epoch": len(self.train_loader),
            "global_batch": self._global_batch(),
            "config": configuration.to_yaml(self.config),
        }
        failed = None
        try:
            if scores is not None:
                self._save_best(scores, weights, meta)
        except UserError as error:
            failed = error
        if not runtime.leads():
            return
        meta["best"] = self.best and self.best._asdict()
        try:
            checkpoint.save_state(self.run_dir, weights, self._state(), meta, keep=self.config.train.keep_checkpoints)
        except UserError as error:
            failed = error
        if failed is not None:
            if self.epoch == self.epochs:
                raise failed  # there is no later attempt
            print(f"warning: {failed}; training goes on", flush=True)

    def _save_best(self, scores: dict, weights: Mapping, meta: Mapping) -> None:
        """Write ``best.ckpt`` if ``scores`` are the best so far, which they are only when it is written."""
        evaluator = self.make_evaluator()
        metric = evaluator.primary
        if not metric.better(scores[metric.name], self.best and self.best.value):
            return
        best = Best(metric.name, scores[metric.name], metric.higher_is_better)
        if runtime.leads():
            averages = self.average and self.average.named()
            meta = {**meta, "best": best._asdict(), "averaged": bool(averages)}
            checkpoint.save(self.run_dir / run_dir.BEST, averages or weights, meta=meta)
        self.best = best
        if runtime.leads():
            found = {"epoch": self.epoch, "best": best._asdict(), "told": metric.told(best.value), **scores}
            found.update(tables=evaluator.tables(scores), curves=curve_names(evaluator.metrics))
            write_text(self.run_dir / run_dir.BEST_SCORES, json.dumps(found, indent=1) + "\n")

    def _state(self) -> dict[str, ms.Parameter]:
        """Everything beside the weights that decides how training goes on, by name."""
        state = {f"optimizer.{name}": value for name, value in optimizer_state(self.optimizer).items()}
        state.update({f"scaler.{name}": value for name, value in precision.scaler_state(self.scaler).items()})
        return {**state, **(self.average.state() if self.average else {})}

    def _take_over_from_rank_0(self) -> None:
        """Also where a host has no run folder to resume from, and whatever each process drew its weights from."""
        parallel.broadcast([*self.net.get_parameters(), *self._state().values()])
        place = json.dumps([self.epoch, self.best, dataclasses.asdict(self.done)])
        self.epoch, best, done = json.loads(parallel.gather_bytes(place.encode())[0])
        self.best, self.done = best and Best(*best), EpochSoFar(**done)

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
        self.epoch, self.done = saved.meta["epoch"], EpochSoFar(**saved.meta["in_epoch"])
        metric = self.make_evaluator().primary
        self.best = self._written_best(metric)
        within = f" and {self.done.steps} steps" if self.done.steps else ""
        best = f"best {metric.told(self.best.value)}" if self.best else f"no {run_dir.BEST} yet"
        print(f"resumed from {path}: {self.epoch} epochs{within} done, {best}", flush=True)

    def _written_best(self, metric: Metric) -> Best | None:
        """What ``best.ckpt`` itself says that it scored: it may be older or newer than the training state."""
        path = self.run_dir / run_dir.BEST
        if not path.exists():
            return None
        try:
            found = Best.of(checkpoint.read(path).meta)
        except UserError as error:
            print(f"warning: {error}; the next validation writes it anew", flush=True)
            return None
        return found if found and found.name == metric.name else None

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
