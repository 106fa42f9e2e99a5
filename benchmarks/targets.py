"""What the speed of this implementation is held against: rows of a table as data, and how a row's figure comes about.

All are ratios of things measured side by side in one run, because seconds alone say nothing on another machine. A row
compares the best of our forms with the best of what it is measured against.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from acmix_ms.analysis.reported import FIGURE4, TABLE3, TABLE4, TABLE5_SIZE
from acmix_ms.errors import UserError, closest
from benchmarks.protocol import GEMM, SIZE, Measured, Spec, ratios, spread

DETECTION_CANVAS = (800, 1344)  # of images of COCO
BEST = ("infer", "deploy")  # forms that may stand for ours in inference
PARTS = ("share", "rest")  # measures that are parts of a whole
AGREEMENT = 1e-4  # of outputs with the official code's, relative to the largest
DEPLOY_AGREEMENT = 1e-5  # of the deploy form with the form that was trained


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: for ``--rows``.
        title: what is measured.
        session: rows with the same are measured together, in turns.
        ours, against: what is run; of each side the best counts.
        measure: ``"faster"`` (time of the other side over ours), ``"memory"`` (our peak over the other's), ``"cost"``
            (our time over the other's, over ``reference``), ``"rest"`` (the part of our time that the other side, which
            does less, does not need) or ``"share"`` (of the rate of the matrix product).
        target: at least this for ``"faster"`` and ``"share"``, at most this for the others.
        reference: the ratio of times that the work itself explains: of multiply-adds, or of pixels.
        reference_text: where it comes from.
    """

    name: str
    title: str
    session: str
    ours: tuple[Spec, ...]
    against: tuple[Spec, ...]
    measure: str
    target: float
    reference: float = 1.0
    reference_text: str = ""

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.measure in ("faster", "share")

    @property
    def specs(self) -> tuple[Spec, ...]:
        """All that it needs; what it is measured against comes first, as the measure of agreement."""
        return (*self.against, *self.ours)

    @property
    def target_text(self) -> str:
        """Such as ``>= 10x``."""
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.target:.0%}" if self.measure in PARTS else f"{sign} {self.target:g}x"


@dataclass(frozen=True)
class Result:
    """What became of a row: ``value`` with its ``spread`` over the turns, or None and a ``failure``."""

    row: Row
    value: float | None = None
    spread: dict[str, float] | None = None
    ours: str = ""
    against: str = ""
    difference: float | None = None
    failure: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a value."""
        if self.value is None:
            return None
        return self.value >= self.row.target if self.row.at_least else self.value <= self.row.target

    def record(self) -> dict:
        """All of it as JSON values."""
        row = self.row
        return {
            "name": row.name,
            "title": row.title,
            "measure": row.measure,
            "target": row.target,
            "target_text": row.target_text,
            "reference": row.reference,
            "reference_text": row.reference_text,
            "value": self.value,
            "spread": self.spread,
            "met": self.met,
            "ours": self.ours,
            "against": self.against,
            "difference": self.difference,
            "failure": self.failure,
        }


def _forms(model: str, forms: Sequence[str] = BEST, **more) -> tuple[Spec, ...]:
    return tuple(Spec(model, form, **more) for form in forms)


def _official(name: str, model: str, eager: float, compiled: float, form: str = "infer") -> tuple[Row, ...]:
    ours = _forms(model)
    return (
        Row(name, f"{model} inference", name, ours, (Spec(model, form, "official"),), "faster", eager),
        Row(f"{name}-compiled", f"{model} inference, against torch.compile", name, ours,
            (Spec(model, form, "compiled"),), "faster", compiled),
    )  # fmt: skip


def _train(name: str, model: str, target: float, **options) -> Row:
    pairs = tuple(options.items())
    return Row(name, f"{model} train step (AdamW)", name, (Spec(model, "train", options=pairs),),
               (Spec(model, "train", "official"),), "faster", target)  # fmt: skip


def _memory(name: str, model: str, forms: Sequence[str]) -> Row:
    what = "train step" if "train" in forms else "inference"
    return Row(name, f"{model} {what}, peak memory", name, _forms(model, forms, batch=8),
               (Spec(model, forms[0], "official", batch=8),), "memory", 0.5)  # fmt: skip


def _family(plain: str) -> Row:
    printed = {row.model: row.flops for row in FIGURE4}
    mixed = f"acmix_{plain}"
    ratio, text = float(printed[mixed]) / float(printed[plain]), f"{printed[mixed]}G / {printed[plain]}G, the paper's"
    return Row(f"family-{plain}", f"{mixed} against {plain}, over the ratio of multiply-adds", f"family-{plain}",
               _forms(mixed), _forms(plain), "cost", 1.25, ratio, text)  # fmt: skip


def _growth(name: str, model: str) -> tuple[Row, ...]:
    small = _forms(model, ("infer",), batch=1)
    return tuple(
        Row(f"growth-{name}-{factor * SIZE}", f"{model}, time for a pixel at {factor * SIZE} against {SIZE}",
            f"growth-{name}", _forms(model, ("infer",), batch=1, image_size=factor * SIZE), small, "cost", 1.15,
            float(factor**2), f"{factor}x{factor} times the pixels")
        for factor in (2, 4)
    )  # fmt: skip


def _deploy(name: str, model: str) -> Row:
    return Row(f"deploy-{name}", f"{model}, deploy form against the form that was trained", name,
               _forms(model, ("deploy",)), _forms(model, ("infer",)), "faster", 1.3)  # fmt: skip


def _detectors() -> tuple[Row, ...]:
    """RetinaNet: all but the net takes little, ACmix costs what its multiply-adds do, and mmdetection is no faster."""
    one = {"batch": 1, "image_size": TABLE5_SIZE}
    net, plain = "retinanet_acmix_pvt_tiny", "retinanet_resnet50"
    rows = [
        Row("detection-rest", f"{net}, what follows its maps, of the whole", "detection-rest",
            _forms(net, ("mindir",), **one), _forms(net, ("mindir-raw",), **one), "rest", 0.15),
        Row("detection-losses", f"{net} train step, targets and losses, of the whole", "detection-losses",
            _forms(net, ("train",), **one), _forms(net, ("train-maps",), **one), "rest", 0.2),
        Row("mmdetection", f"{plain} inference up to maps, against mmdetection's", "mmdetection", _forms(plain, **one),
            (Spec(plain, source="mmdetection", **one),), "faster", 1.0),
    ]  # fmt: skip
    large = {"batch": 1, "image_size": DETECTION_CANVAS}
    printed = {row.model: row.flops for row in (*TABLE3, *TABLE4)}
    for name in ("resnet50", "pvt_tiny"):
        twin, mixed = f"retinanet_{name}", f"retinanet_acmix_{name}"
        ratio, text = float(printed[mixed]) / float(printed[twin]), f"{printed[mixed]}G / {printed[twin]}G, the paper's"
        ours, against = _forms(mixed, ("train",), **large), _forms(twin, ("train",), **large)
        title = f"{mixed} train step against {twin}, over the ratio of multiply-adds"
        rows.append(Row(f"detection-{name}", title, f"detection-{name}", ours, against, "cost", 1.25, ratio, text))
    return tuple(rows)


ROWS = (
    *_official("resnet50", "acmix_resnet50", 10.0, 5.0),
    _deploy("resnet50", "acmix_resnet50"),
    *_official("swin", "acmix_swin_tiny", 1.3, 1.15),
    _deploy("swin", "acmix_swin_tiny"),
    Row("share", "acmix_swin_tiny inference, of the rate of the matrix product", "swin", _forms("acmix_swin_tiny"),
        (GEMM,), "share", 0.4),
    Row("mindcv", "swin_tiny inference, against mindcv's swin_tiny", "mindcv", _forms("swin_tiny"),
        (Spec("swin_tiny", source="mindcv"),), "faster", 2.5),
    _train("resnet26-train", "acmix_resnet26", 5.0),
    _train("swin-train", "acmix_swin_tiny", 1.1, drop_path_rate=0.0),
    _memory("resnet50-memory", "acmix_resnet50", BEST),
    _memory("resnet26-train-memory", "acmix_resnet26", ("train",)),
    *(_family(plain) for plain in ("swin_tiny", "pvt_tiny", "san10", "resnet50")),
    *_growth("resnet26", "acmix_resnet26"),
    *_growth("swin", "acmix_swin_tiny"),
    *_detectors(),
)  # fmt: skip


def select(names: Sequence[str] | None) -> tuple[Row, ...]:
    """Rows by name or by the name of their session, in the order of the table; all of them for None.

    Raises:
        UserError: a name that no row has.
    """
    if names is None:
        return ROWS
    known = {row.name for row in ROWS} | {row.session for row in ROWS}
    for name in names:
        if name not in known:
            raise UserError(f"--rows {name}: {closest(name, known)}")
    return tuple(row for row in ROWS if row.name in names or row.session in names)


def resized(row: Row, batch: int | None, image_size: int | None) -> Row:
    """The row for a quick trial: another batch, and all sizes in the proportion of ``image_size`` to 224."""

    def change(spec: Spec) -> Spec:
        if spec.source == "gemm":
            return spec
        sides = spec.image_size if isinstance(spec.image_size, tuple) else (spec.image_size,)
        sides = sides if image_size is None else tuple(max(32, side * image_size // SIZE // 32 * 32) for side in sides)
        size = sides if len(sides) > 1 else sides[0]
        return dataclasses.replace(spec, batch=batch or spec.batch, image_size=size)

    return dataclasses.replace(row, ours=tuple(map(change, row.ours)), against=tuple(map(change, row.against)))


def sessions(rows: Sequence[Row]) -> dict[str, tuple[Spec, ...]]:
    """What is measured together, by name of the session; what is official comes first."""
    found: dict[str, dict[Spec, None]] = {}
    for row in rows:
        found.setdefault(row.session, {}).update(dict.fromkeys(row.specs))
    order = ("official", "compiled", "mindcv", "mmdetection", "ours", "gemm")
    return {name: tuple(sorted(specs, key=lambda spec: order.index(spec.source))) for name, specs in found.items()}


def evaluate(row: Row, measured: Mapping[Spec, Measured]) -> Result:
    """The figure of a row from what was measured for it."""
    sides = []
    for specs in (row.against, row.ours):
        there = [measured[spec] for spec in specs if spec in measured]
        usable = [m for m in there if m.timing is not None and (row.measure != "memory" or m.peak)]
        if not usable:
            reasons = dict.fromkeys(m.failure or "no memory was measured" for m in there)
            return Result(row, failure="; ".join(reasons) or "it was not measured")
        sides.append(min(usable, key=lambda m: m.peak if row.measure == "memory" else m.timing.median))
    other, mine = sides
    names = {"ours": mine.spec.label, "against": other.spec.label, "difference": mine.difference}
    if row.measure == "memory":
        return Result(row, mine.peak / other.peak, **names)
    if row.measure == "share":
        # The product is measured in the same turns: its rate over ours, turn by turn.
        work = mine.gflops * mine.timing.median / (other.gflops * other.timing.median)
        values = tuple(work * value for value in ratios(other.timing, mine.timing))
    elif row.measure == "rest":
        values = tuple(1 - 1 / value for value in ratios(mine.timing, other.timing))
    elif row.measure == "faster":
        values = ratios(other.timing, mine.timing)
    else:
        values = tuple(value / row.reference for value in ratios(mine.timing, other.timing))
    return Result(row, float(np.median(values)), spread(values), **names)
