"""Nets as commands ask for them: by a configuration, by name, or by a checkpoint that says itself what it is of.

This is the one place that knows how a configuration becomes a net. Importing it does not load MindSpore.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from acmix_ms import config, runtime
from acmix_ms.arguments import ArgumentParser
from acmix_ms.checkout import CONFIGS
from acmix_ms.data.preprocess import Preprocess, preprocess_of
from acmix_ms.deploy import SUFFIXES, CellRunner, Runner, description, open_file
from acmix_ms.errors import UserError
from acmix_ms.files import require_checkpoint

if TYPE_CHECKING:
    from mindspore import nn

    from acmix_ms.engine.checkpoint import Checkpoint


# ---------------------------------------------------------------------------------------- what a command line names
def add_arguments(parser: ArgumentParser, *, checkpoint_required: bool = False) -> None:
    """``--config``, ``--model``, ``--checkpoint`` and overrides: what `read` takes."""
    parser.add_config(required=False)
    parser.add_argument("--model", metavar="NAME", help="instead of --config; most checkpoints know theirs")
    about = f"weights, or {', '.join(SUFFIXES)}" if checkpoint_required else "the weights; without it they are random"
    parser.add_argument("--checkpoint", required=checkpoint_required, metavar="FILE", help=about)


def check(args: Namespace) -> None:
    """See that a net is named, and its file there. Cheap.

    Raises:
        UserError: no net, two nets, or no file.
    """
    if args.config and args.model:
        raise UserError("give either --config FILE or --model NAME, not both")
    if not (args.config or args.model or args.checkpoint):
        raise UserError("give either --config FILE or --model NAME, or a --checkpoint that knows its model")
    if args.checkpoint:
        require_checkpoint(args.checkpoint)


def read(args: Namespace, *, exported: bool = False) -> tuple[config.Config, Checkpoint | None]:
    """The configuration of the net that is named, and its checkpoint, if there is one.

    With ``exported`` the checkpoint may also be an exported file, which is not read, but asked for its description.

    Raises:
        UserError: unreadable files, or a checkpoint that does not know its model.
    """
    cfg = None
    if args.config:
        cfg = config.load(args.config, args.overrides)
    elif args.model:
        cfg = config_of_model(args.model, args.overrides)
    if not args.checkpoint:
        return cfg, None
    if exported and Path(args.checkpoint).suffix in SUFFIXES:
        return cfg or config_of_export(args.checkpoint, args.overrides), None
    from acmix_ms.engine import checkpoint

    saved = checkpoint.read(args.checkpoint)
    return cfg or config_of(saved, args.checkpoint, args.overrides), saved


# --------------------------------------------------------------------------------------------------- configurations
# Where the recipe of a model may be, and what follows its name.
RECIPES = (
    *(("classification", ending) for ending in ("_imagenet", "")),
    *(("detection", ending) for ending in ("_1x", "_3x", "")),
    *(("segmentation", ending) for ending in ("_40k", "_160k", "")),
)
# Of models of a task without a recipe, how pictures are prepared.
BASES = {"detection": "coco.yaml", "segmentation": "ade20k.yaml"}


def config_of_model(name: str, overrides: Sequence[str] = ()) -> config.Config:
    """The recipe of a model, which says how its pictures are prepared; of one without recipe the defaults.

    Raises:
        UserError: unknown model.
    """
    for folder, ending in RECIPES:
        file = CONFIGS / folder / f"{name}{ending}.yaml"
        if file.is_file():
            return config.load(file, overrides)
    from .registry import model_task

    base = BASES.get(model_task(name))
    if base:
        return config.load(CONFIGS / "base" / base, [f"model.name={name}", f"run_dir=runs/{name}", *overrides])
    return config.for_model(name, overrides)


def config_of(saved: Checkpoint, path: str, overrides: Sequence[str] = ()) -> config.Config:
    """The configuration that a checkpoint was trained with; the recipe of its model where it was converted.

    Raises:
        UserError: it does not say of which model it is.
    """
    if "config" in saved.meta:
        return config.from_text(saved.meta["config"], overrides)
    if not saved.meta.get("model"):
        raise UserError(
            f"{path} does not say of which model it is: give --config or --model, or a file that train.py or "
            "convert_torch.py wrote"
        )
    count = saved.meta.get("num_classes")
    return config_of_model(saved.meta["model"], [*([f"model.num_classes={count}"] if count else []), *overrides])


def config_of_export(path: str, overrides: Sequence[str] = ()) -> config.Config:
    """The recipe of the net in an exported file, with pictures prepared as the file's description says.

    Raises:
        UserError: there is no description.
    """
    about = description.read(path)
    prepare = about.preprocess
    known = [f"task={about.task}", "model.num_classes=null"]
    known += [f"data.interpolation={prepare.interpolation}", f"data.resize={prepare.resize_method}"]
    if about.canvas is not None:
        sides = dict(zip(("height", "width"), about.input_shape[2:]), max_side=about.canvas["max_side"])
        if about.task == "detection":
            sides["turns"] = "false"
        known += [f"data.canvas.{key}={'null' if value is None else value}" for key, value in sides.items()]
        known.append(f"data.canvas.short_sides=[{about.canvas['short_side']}]")
    else:
        known += [f"data.image_size={prepare.crop}", f"data.eval_crop_ratio={prepare.crop / prepare.resize}"]
    return config_of_model(about.model, [*known, *overrides])


# -------------------------------------------------------------------------------------------------------------- nets
def create(cfg: config.Config, num_classes: int) -> nn.Cell:
    """The net that a configuration describes, with random weights.

    Raises:
        UserError: unknown model, arguments that it does not take, or a model for another task.
    """
    from .registry import create_model, model_task

    task = model_task(cfg.model.name)
    if task != cfg.task:
        raise UserError(f"task={cfg.task}: {cfg.model.name} is for {task}; give task={task}, or another model.name")
    return create_model(cfg.model.name, num_classes=num_classes, **cfg.model.kwargs)


class Net(NamedTuple):
    """A net in evaluation; how many classes it tells apart, and their names where the checkpoint has them."""

    cell: nn.Cell
    num_classes: int
    classes: tuple[str, ...] | None


def net_of(
    cfg: config.Config, saved: Checkpoint | None = None, path: str | None = None, num_classes: int | None = None
) -> Net:
    """The net of ``cfg`` with the weights of a checkpoint that came from ``path``, or random ones.

    Args:
        num_classes: by default as many as the checkpoint has, or ``cfg``; 10 of digits, else 1000.

    Raises:
        UserError: the checkpoint is of another net.
    """
    from acmix_ms.engine import checkpoint

    meta = saved.meta if saved else {}
    count = num_classes or meta.get("num_classes") or cfg.model.num_classes
    count = count or (10 if cfg.data.name == "digits" else 1000)
    cell = create(cfg, count).set_train(False)
    if saved:
        checkpoint.assign_weights(cell, saved, path)
    names = meta.get("class_names") or ()
    return Net(cell, count, tuple(names) if len(names) == count else None)


class Opened(NamedTuple):
    """A net with weights, built or in an exported file, ready for image files."""

    answers: Runner
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    built: Net | None = None  # where it is no exported file
    data: config.DataConfig | None = None  # what it was trained on, where it is no exported file
    precision: str = "fp32"


def open_net(path: str, args: Namespace, *, mode: str = "graph") -> Opened:
    """The net in a checkpoint (with ``args`` as `read` takes them) or in an exported file; starts the runtime.

    Raises:
        UserError: see `read` and `acmix_ms.deploy.open_file`; an exported file without its description.
    """
    if Path(path).suffix in SUFFIXES:
        require_checkpoint(path)
        about = description.read(path)
        runtime.start("auto", mode)
        if about.task != "classification":
            raise UserError(f"{path} is for {about.task}: only files for classification are run here")
        return Opened(open_file(path), about.preprocess, about.classes, precision=about.precision)
    return open_checkpoint(*read(args), path, mode=mode)


def open_checkpoint(cfg: config.Config, saved: Checkpoint | None, path: str, *, mode: str = "graph") -> Opened:
    """The net of ``cfg`` with the weights that were read from ``path``; starts the runtime."""
    runtime.start_for(cfg, mode)
    net = net_of(cfg, saved, path)
    return Opened(CellRunner(net.cell, path, batch=1), preprocess_of(cfg.data), net.classes, net, cfg.data)
