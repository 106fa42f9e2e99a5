"""Speed on paper: what a device of published peaks could do with the FLOPs and bytes of a network, without running it.

The time of a layer is the longest of three: FLOPs of the matrix unit (padding included) over its peak, operations of
the vector unit over its rate, bytes over the bandwidth of the memory; the three overlap, layers do not. Latency is the
sum of the layers. `work` tells what is counted; of its two conventions ``fused`` is the faster.
Not in it: launches of kernels, changes of layout between operators, the host, what peaks lose in practice, and what the
caches save (the L2 of the Ascend 910 has 32 MB: at batch 1 many maps would never leave it).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from mindspore import nn

from acmix_ms.analysis.trace import Call, trace, work
from acmix_ms.analysis.work import Work
from acmix_ms.errors import UserError, closest
from acmix_ms.ops.base import check_choice, check_positive

LABEL = "prediction from a roofline, nothing was run on an Ascend"
FUSIONS = ("fused", "unfused")
OMITTED = (
    "Not in the prediction: kernel launches, layout changes, the host, the distance of real kernels from peaks (all of "
    "them make it slower) and caches (faster, at batch 1 above all)."
)


@dataclass(frozen=True)
class Device:
    """Published peaks of a device; what is not published is absent.

    Attributes:
        name: as people write it.
        cube: peak of the matrix unit in FLOP/s for each precision.
        bandwidth: of the memory, bytes/s.
        vector: operations/s of the vector units on float32 elements.
        sources: where each figure is from.
    """

    name: str
    cube: dict[str, float]
    bandwidth: float
    vector: float
    sources: tuple[str, ...]


_CONFIG = "https://gitcode.com/W4termy/runtime/blob/master/src/platform/platform_config/Ascend910A.ini"
DEVICES = {
    "ascend910": Device(
        name="Ascend 910",
        # No fp32 figure of the matrix unit is published (Huawei gives 256 TFLOP/s fp16 and 512 TOP/s int8).
        cube={"fp16": 256e12},
        bandwidth=1.2e12,
        vector=32 * 64 * 1e9,
        sources=(
            "256 TFLOP/s fp16, 32 cores, four stacks of HBM2: Linley Newsletter, 8 October 2019, "
            "https://www.linleygroup.com/newsletters/newsletter_detail.php?num=6076&year=2019&tag=3",
            "1.2 TB/s of HBM, a secondary source: "
            "https://www.besthub.dev/articles/inside-huawei-s-ascend-ai-processor-architecture-performance-and-design-"
            "secrets-04d306ca703a",
            f"matrix unit of 16x16x16, 32 cores, 1 GHz: CANN's platform configuration, {_CONFIG}",
            "vector rate: derived, not published: 32 cores x 64 float32 lanes (2048 bit, Hot Chips 31, summarised at "
            "https://vengineer.hatenablog.com/entry/2019/09/06/070000) x 1 GHz",
        ),
    )
}


@dataclass(frozen=True)
class Row:
    """The prediction for one piece of work.

    Attributes:
        name, kind: of the Cell, and what it does.
        flops: of the mathematics; ``cube_flops`` with the padding of the matrix unit.
        vector_operations: on single elements.
        bytes: to and from memory.
        time_s: seconds.
        bound: what takes longest: ``"cube"`` or ``"vector"`` (both are compute) or ``"memory"``.
    """

    name: str
    kind: str
    flops: int
    cube_flops: int
    vector_operations: int
    bytes: int
    time_s: float
    bound: str

    @property
    def intensity(self) -> float:
        """FLOPs of the mathematics for each byte."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Prediction:
    """A network on a device, as far as paper goes: not a measurement.

    Attributes:
        model: its name.
        device: key of `DEVICES`.
        precision: ``"fp16"``.
        batch: images.
        fusion: ``"fused"`` or ``"unfused"``.
        rows: one for each piece of work that takes time.
    """

    model: str
    device: str
    precision: str
    batch: int
    fusion: str
    rows: tuple[Row, ...]

    def total(self, field: str) -> float:
        """Sum of a field of the rows."""
        return sum(getattr(row, field) for row in self.rows)

    @property
    def latency_ms(self) -> float:
        """Predicted milliseconds for the batch."""
        return 1e3 * self.total("time_s")

    @property
    def fps(self) -> float:
        """Predicted images a second."""
        return self.batch / self.total("time_s")

    def data(self) -> dict:
        """Everything as JSON takes it, with the label."""
        head = {name: getattr(self, name) for name in ("model", "device", "precision", "batch", "fusion")}
        totals = {name: self.total(name) for name in ("flops", "cube_flops", "vector_operations", "bytes")}
        predicted = {"predicted_latency_ms": self.latency_ms, "predicted_fps": self.fps}
        layers = [{**asdict(row), "intensity": row.intensity} for row in self.rows]
        return {"label": LABEL, **head, **totals, **predicted, "layers": layers}


def find_device(name: str, precision: str = "fp16") -> Device:
    """A device of `DEVICES` that has a published peak for the precision.

    Raises:
        UserError: no such device, or no such peak.
    """
    if name not in DEVICES:
        raise UserError(f"device={name!r}: no published peaks are known here, {closest(name, DEVICES)}")
    device = DEVICES[name]
    if precision not in device.cube:
        known = ", ".join(device.cube)
        raise UserError(f"precision={precision!r}: no peak of the {device.name} is published for it, choose {known}")
    return device


def predict(
    net: nn.Cell,
    shape: tuple[int, ...],
    device: str = "ascend910",
    precision: str = "fp16",
    fusion: str = "fused",
    model: str = "",
) -> Prediction:
    """Predict a network for inputs of ``shape`` (batch first); one image of it runs once, here, to find the shapes.

    Raises:
        UserError: unknown device, precision or fusion, or a batch below 1.
    """
    find_device(device, precision)
    return predict_calls(trace(net, (1, *shape[1:])), shape[0], device, precision, fusion, model)


def predict_calls(
    calls: Iterable[Call], batch: int, device: str, precision: str, fusion: str, model: str = ""
) -> Prediction:
    """Predict Cells that `trace` has noted of one image, for any batch."""
    check_positive(batch=batch)
    check_choice(FUSIONS, fusion=fusion)
    peaks = find_device(device, precision)
    rows = (_row(piece, peaks, precision, fusion) for piece in work(calls, batch))
    return Prediction(model, device, precision, batch, fusion, tuple(row for row in rows if row.time_s > 0))


def _row(piece: Work, device: Device, precision: str, fusion: str) -> Row:
    size = getattr(piece, fusion)
    times = {
        "cube": piece.cube / device.cube[precision],
        "vector": piece.vector / device.vector,
        "memory": size / device.bandwidth,
    }
    bound = max(times, key=times.__getitem__)
    return Row(piece.name, piece.kind, piece.flops, piece.cube, piece.vector, size, times[bound], bound)


# -------------------------------------------------------------------------------------------------------------- tables
def table(prediction: Prediction, heaviest: int = 10) -> str:
    """The heaviest layers, then totals by kind of work, as aligned text under the label."""
    names = max([len(row.name) for row in prediction.rows] + [5])
    header = f"{'GFLOP':>9} {'cube':>6} {'MB':>9} {'FLOP/B':>7} {'us':>9} {'share':>6}"
    lines = [f"{_title(prediction)}: {LABEL}"]
    lines.append(f"{'layer':<{names}} {'kind':<10} {header} bound")
    for row in sorted(prediction.rows, key=lambda row: -row.time_s)[:heaviest]:
        lines.append(f"{row.name:<{names}} {row.kind:<10} {_figures([row], prediction)} {row.bound}")
    kinds: dict[str, list[Row]] = {}
    for row in prediction.rows:
        kinds.setdefault(row.kind, []).append(row)
    lines.append(f"{'all of a kind':<{names}} {'kind':<10} {header}")
    for kind, rows in sorted(kinds.items(), key=lambda pair: -sum(row.time_s for row in pair[1])):
        lines.append(f"{len(rows):<{names}} {kind:<10} {_figures(rows, prediction)}")
    lines.append(f"{'total':<{names}} {'':<10} {_figures(prediction.rows, prediction)}")
    lines.append(f"predicted {prediction.latency_ms:.3f} ms, {prediction.fps:,.0f} images/s ({LABEL})")
    return "\n".join(lines) + "\n"


def _title(prediction: Prediction) -> str:
    name = DEVICES[prediction.device].name
    return f"{prediction.model} on {name}, {prediction.precision}, batch {prediction.batch}, {prediction.fusion}"


def _figures(rows: Iterable[Row], prediction: Prediction) -> str:
    """GFLOP, how full the matrix unit is, MB, FLOP a byte, microseconds, share of the time."""
    rows = list(rows)
    flops, cube, size = (sum(getattr(row, name) for row in rows) for name in ("flops", "cube_flops", "bytes"))
    seconds = sum(row.time_s for row in rows)
    full = f"{flops / cube:.0%}" if cube else "-"
    share = seconds / prediction.total("time_s")
    intensity = flops / size if size else 0.0
    return f"{flops / 1e9:>9.3f} {full:>6} {size / 1e6:>9.2f} {intensity:>7.1f} {1e6 * seconds:>9.1f} {share:>6.1%}"


def report(
    models: Iterable[tuple[str, nn.Cell]],
    batch: int | Iterable[int] = 1,
    image_size: int = 224,
    device: str = "ascend910",
    precision: str = "fp16",
    heaviest: int = 0,
) -> tuple[str, dict]:
    """Predict models for square colour images, in both conventions.

    Args:
        models: (name, Cell) pairs; a generator is asked for one at a time.
        batch: images at once, or several such numbers.
        image_size: side of the images in pixels.
        device, precision: as of `predict`.
        heaviest: layers to list for each prediction; 0 prints one line for each model and batch.

    Returns:
        Text to print, and the same as JSON takes it, with every layer.

    Raises:
        UserError: unknown device or precision, or a number that is not positive.
    """
    batches = (batch,) if isinstance(batch, int) else tuple(batch)
    check_positive(image_size=image_size, batch=min(batches, default=0))
    peaks = find_device(device, precision)
    found: list[Prediction] = []
    for name, net in models:
        calls = trace(net, (1, 3, image_size, image_size))
        found += [predict_calls(calls, n, device, precision, f, name) for n in batches for f in FUSIONS]
    title = f"{peaks.name}, {precision}, images of {image_size}x{image_size}: {LABEL}"
    lines = [title, *_summary(found), *_twin_lines(found), OMITTED, *(f"source: {s}" for s in peaks.sources), ""]
    if heaviest:
        lines += [table(prediction, heaviest) for prediction in found]
    data = {
        "label": LABEL,
        "device": {"key": device, **asdict(peaks), "sources": list(peaks.sources)},
        "image_size": image_size,
        "predictions": [prediction.data() for prediction in found],
        "ratios": twins(found),
    }
    return "\n".join(lines), data


def _summary(found: list[Prediction]) -> list[str]:
    names = max([len(p.model) for p in found] + [5])
    header = f"{'model':<{names}} {'batch':>5} {'counted':<8} {'GFLOP':>9} {'cube':>6} {'MB':>9} {'memory':>7}"
    lines = [f"{header} {'predicted ms':>13} {'predicted images/s':>19}"]
    for p in found:
        full = p.total("flops") / p.total("cube_flops") if p.total("cube_flops") else 0.0
        waiting = sum(row.time_s for row in p.rows if row.bound == "memory") / p.total("time_s")
        lines.append(
            f"{p.model:<{names}} {p.batch:>5} {p.fusion:<8} {p.total('flops') / 1e9:>9.2f} {full:>6.0%} "
            f"{p.total('bytes') / 1e6:>9.1f} {waiting:>7.0%} {p.latency_ms:>13.3f} {p.fps:>19,.0f}"
        )
    return [*lines, "cube: how full the matrix unit is; memory: share of the predicted time that memory bounds"]


def twins(found: Iterable[Prediction]) -> list[dict]:
    """Predicted speed of each ``acmix_X`` over that of X, where both are there."""
    fps = {(p.model, p.batch, p.fusion): p.fps for p in found}
    pairs = []
    for (model, batch, fusion), value in fps.items():
        plain = fps.get((model.removeprefix("acmix_"), batch, fusion))
        if model.startswith("acmix_") and plain:
            pair = {"model": model, "over": model.removeprefix("acmix_"), "batch": batch, "fusion": fusion}
            pairs.append({**pair, "predicted_ratio": value / plain})
    return pairs


def _twin_lines(found: Iterable[Prediction]) -> list[str]:
    line = "predicted speed of {model} over {over}, batch {batch}, {fusion}: {predicted_ratio:.2f}"
    return [line.format(**pair) for pair in twins(found)]
