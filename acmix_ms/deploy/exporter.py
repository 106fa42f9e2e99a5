"""Export a Cell to a file, run the file, and compare both before the file gets its name."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from acmix_ms import runtime
from acmix_ms.deploy import onnx
from acmix_ms.deploy.comparison import TOLERANCES, Differences, VerificationError, compare_outputs
from acmix_ms.deploy.description import FORMATS, Description, Output, beside
from acmix_ms.deploy.files import open_file, plain_folder, put
from acmix_ms.deploy.runner import LARGEST_INPUT, NotFiniteError, Runner, default_names, middle, run_cell
from acmix_ms.errors import UserError, closest
from acmix_ms.files import sha256, writable_file

DYNAMIC_BATCHES = (1, 3)  # a file for any batch is compared at these


def unavailable(format: str, *, boxes: bool = False) -> str | None:
    """Why a format cannot be made on this machine and what to do; None if it can. Cheap.

    Args:
        boxes: of a detector with all that makes boxes of its maps.
    """
    if format == "air" and not runtime.available("Ascend"):
        return (
            "cannot be made here, it needs an Ascend host: MindSpore writes AIR only there, and none was found; "
            "export --format mindir here, or run the same command on the Ascend machine"
        )
    if format in ("onnx", "ms") and onnx.missing():
        return f"cannot be made here: {onnx.missing()}"
    if format == "ms":
        from acmix_ms.deploy import lite

        reason = lite.missing() or (lite.without_boxes() if boxes else None)
        return reason and f"cannot be made here: {reason}"
    return None


def check_format(format: str, *, boxes: bool = False) -> None:
    """See that ``format`` is known and can be made on this machine, see `unavailable`. Cheap; call it before any work.

    Raises:
        UserError: unknown format; AIR without an Ascend; packages or MindSpore Lite missing.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: {closest(format, (*FORMATS, 'all'))}")
    reason = unavailable(format, boxes=boxes)
    if reason:
        raise UserError(f"--format {format} {reason}")


def possible_formats(format: str, *, boxes: bool = False) -> list[str]:
    """``format`` alone, or of ``"all"`` those that can be made here, see `unavailable`; what stands against the others
    is printed.

    Raises:
        UserError: as `check_format`.
    """
    if format != "all":
        check_format(format, boxes=boxes)
        return [format]
    reasons = {name: unavailable(name, boxes=boxes) for name in FORMATS}
    for name, reason in reasons.items():
        if reason:
            print(f"--format {name} is left out, it {reason}", flush=True)
    return [name for name in FORMATS if not reasons[name]]


def outputs(output: str | None, model: str, formats: Sequence[str], *, force: bool = False) -> list[Path]:
    """The file of each format: ``output`` itself where it has the ending of the only format, else with it appended.

    Raises:
        UserError: as `check_output`; ``output`` is a folder.
    """
    stem = output or model
    if output and (Path(output).is_dir() or output.endswith(("/", os.sep))):
        raise UserError(f"--output {output} is a folder: give the name of a file in it")
    single = len(formats) == 1 and stem.endswith(f".{formats[0]}")
    return [check_output(stem if single else f"{stem}.{name}", force=force) for name in formats]


def check_output(path: str | os.PathLike, *, force: bool = False) -> Path:
    """See that a file can be written at ``path``. Cheap; call it before building anything.

    Raises:
        UserError: it exists and ``force`` is not set, or its folder cannot be written to.
    """
    path = writable_file(path, "--output")
    if path.exists() and not force:
        raise UserError(f"--output {path} exists already: give another name, or --force to replace it")
    return path


def export(
    cell,
    format: str,
    path: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None,
    batch: int | None = 1,
    channels: int = 3,
    precision: str = "fp32",
    force: bool = False,
    tolerance: float | None = None,
    reference=None,
    images: np.ndarray | None = None,
    description: Description | None = None,
) -> Path:
    """Write ``cell`` as a file that has been run and compared with it. Needs graph mode.

    Args:
        cell: (B, channels, H, W) float32 to one output, or to several in tuples and tuples of tuples, each (B, ...); it
            is switched to evaluation.
        format: one of `FORMATS`.
        path: of the new file; a file there before is kept until the new one is proved.
        image_size: (H, W), or one number for both; None for any, where the net has nothing that depends on it.
        batch: fixed batch size, or None for any: that is compared at two sizes.
        precision: ``"fp32"``, or ``"fp16"`` to compute in (see `acmix_ms.deploy.half`).
        force: replace an existing file.
        tolerance: largest difference allowed, relative to the largest output; default `TOLERANCES`.
        reference: what the file is compared with instead of ``cell``: the net that ``cell`` was made from.
        images: (N, channels, H, W) float32 to compare on, or larger ones, of which the middle is taken; random numbers
            by default.
        description: completed and written as JSON beside the file; it names the outputs, which are ``logits``, or
            ``output0`` and so on, without it.

    Raises:
        UserError: see `check_format` and `check_output`; a size that the net cannot leave open, or that is too large.
        ValueError: the description names another number of outputs than the net has.
        VerificationError: the difference is larger; nothing is left at ``path`` that was not there before.
    """
    check_format(format)
    path = check_output(path, force=force)
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    cell.set_train(False)
    reference = cell if reference is None else reference.set_train(False)
    if image_size is None and not getattr(reference, "any_size", False):
        raise UserError(
            f"--image-size dynamic: a {type(reference).__name__} with attention is made for one size; give a number"
        )
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    shape = (batch, channels, height, width)
    _check_fits(shape)
    if images is None:
        sides = height or 64, width or 64
        images = np.random.default_rng(0).standard_normal((max(batch or 4, 4), channels, *sides)).astype(np.float32)
    elif height is not None:
        images = middle(images, height, width)
    parts = [_batches(images, size) for size in (DYNAMIC_BATCHES if batch is None else [batch])]
    outputs = _outputs(reference, parts[0][0], description, shape)
    names = [output.name for output in outputs]
    with plain_folder(path.parent) as folder:
        partial = folder / f"model.{format}"
        # A copy: MindSpore keeps the graph of a Cell, but each format needs a graph of its own.
        _write(copy.deepcopy(cell), format, partial, shape, precision, names)
        verified = None
        if format == "air":
            print(f"{path.name}: AIR cannot be reloaded by MindSpore, so nothing was compared", flush=True)
        else:
            try:
                verified = _prove(partial, path, reference, parts, tolerance, names)
            except UserError as error:  # the runtime refuses the file
                raise UserError(str(error).replace(str(partial), str(path))) from error
        digest = sha256(partial)
        put(partial, path)
    if description is None:
        beside(path).unlink(missing_ok=True)  # of another file, which had this name
    else:
        of_file = {"format": format, "precision": precision, "input_shape": shape, "outputs": outputs}
        replace(description, verified=verified, sha256=digest, **of_file).write(path)
    return path


def _check_fits(shape: tuple[int | None, ...]) -> None:
    count = 1
    for size in shape:
        count *= size or 1
    if count > LARGEST_INPUT:
        said = "x".join(str(size or "any") for size in shape)
        raise UserError(f"--batch and --image-size: {said} numbers do not fit into memory; give smaller ones")


def _outputs(
    net, images: np.ndarray, description: Description | None, shape: tuple[int | None, ...]
) -> tuple[Output, ...]:
    """What the net answers to ``images``, as the description names it, with its shapes for inputs of ``shape``."""
    answers = run_cell(net, images)
    if description is None:
        outputs = tuple(Output(name, "") for name in default_names(len(answers)))
    else:
        outputs = description.outputs
    if len(outputs) != len(answers):
        raise ValueError(f"the description names {len(outputs)} outputs, a {type(net).__name__} has {len(answers)}")
    found = []
    for output, answer in zip(outputs, answers):
        sizes = list(answer.shape)
        if shape[0] is None:
            sizes[0] = None
        if shape[2] is None and len(sizes) > 2:  # the sides of a map follow those of the images
            sizes[-2:] = None, None
        found.append(output._replace(shape=tuple(sizes)))
    return tuple(found)


def _write(cell, format: str, path: Path, shape: tuple[int | None, ...], precision: str, names: Sequence[str]) -> None:
    from acmix_ms.deploy import mindir

    if format == "ms":
        _write_lite(cell, path, shape, precision, names)
        return
    if precision == "fp16":
        from acmix_ms.deploy.half import Half

        cell = Half(cell).set_train(False)
    if format == "onnx":
        onnx.write(cell, path, shape, names)
    else:
        {"mindir": mindir.write, "air": mindir.write_air}[format](cell, path, shape)


def _write_lite(cell, path: Path, shape: tuple[int | None, ...], precision: str, names: Sequence[str]) -> None:
    from acmix_ms.deploy import lite

    converter = lite.find()
    source = path.with_suffix(".mindir" if converter.reads_mindir else ".onnx")
    _write(cell, source.suffix[1:], source, shape, "fp32", names)  # the converter makes 16-bit weights itself
    fixed = None if None in shape else shape
    converter.convert(source, path, input_shape=fixed, fp16=precision == "fp16")
    source.unlink()


def _prove(
    file: Path, path: Path, reference, parts: Sequence[list[np.ndarray]], tolerance: float, names: Sequence[str]
) -> Differences:
    """Compare ``file``, which will be ``path``, for each batch size; the largest difference."""
    answers, found = open_file(file, names), []
    for batches in parts:
        try:
            difference = verify(answers, reference, batches)
        except NotFiniteError as error:
            raise VerificationError(f"{str(error).replace(str(file), str(path))}; it was removed") from error
        print(f"reloaded {path.name}, batch {len(batches[0])}: largest difference {difference}", flush=True)
        if not difference.within(tolerance):
            raise VerificationError(
                f"{path}: the reloaded file differs by {difference}; allowed is {difference.allowed(tolerance)}; "
                "it was removed"
            )
        found.append(difference)
    return max(found, key=lambda difference: difference.relative)


def _batches(images: np.ndarray, size: int) -> list[np.ndarray]:
    """The images in whole batches, repeated where there are too few for one."""
    if len(images) < size:
        images = np.resize(images, (size, *images.shape[1:]))
    return [images[start : start + size] for start in range(0, len(images) - size + 1, size)]


def verify(file: str | os.PathLike | Runner, cell, batches: Sequence[np.ndarray]) -> Differences:
    """Run a file (its path, or what `open_file` gave) and ``cell`` on the same batches of images and compare.

    Needs graph mode.

    Raises:
        UserError: the file is missing or cannot be loaded, or gives nan.
        VerificationError: the outputs have different shapes.
    """
    file = file if isinstance(file, Runner) else open_file(file)
    cell.set_train(False)
    answers = file.batches(batches)
    given = _joined([tuple(outputs.values()) for outputs in answers])
    expected = _joined([run_cell(cell, batch) for batch in batches])
    names = list(answers[0])
    if len(names) != len(expected):
        raise VerificationError(f"{file.path} has {len(names)} outputs, expected {len(expected)}: is it another model?")
    try:
        size = tuple(batches[0].shape[2:])
        return compare_outputs(dict(zip(names, given)), dict(zip(names, expected)), size)
    except VerificationError as error:
        raise VerificationError(f"{file.path} {error}") from error


def _joined(batches: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Each output of all batches."""
    return [np.concatenate(values) for values in zip(*batches)]
