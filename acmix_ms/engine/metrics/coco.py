"""COCO's average precision of boxes and masks, as pycocotools computes it, over any number of processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from acmix_ms.data.canvas import boxes_in_image
from acmix_ms.data.loader import PADDING
from acmix_ms.engine.metrics.base import Evaluator, Metric
from acmix_ms.errors import UserError
from acmix_ms.files import write_text
from acmix_ms.masks import encode_pasted, pycocotools, run_lengths
from acmix_ms.postprocess import Detections

NAMES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", "AR_1", "AR_10", "AR_100", "AR_s", "AR_m", "AR_l")
AP_50, AP_75 = 0, 5  # of the ten overlaps .5, .55, ...
SIZES = ("all", "small", "medium", "large")  # up to 32 x 32 pixels, up to 96 x 96, and above
BY_CLASS = ("AP", "AP_50", "AP_75", "AP_s", "AP_m", "AP_l")
KINDS = {"bbox": "box", "segm": "mask"}
WORST_CLASSES = 10  # in a report

BOX, MASK = Metric("bbox_mAP", "box mAP", digits=3), Metric("segm_mAP", "mask mAP", digits=3)
DETAILS = {
    kind: tuple(Metric(f"{kind}_mAP_{share}", f"{told} AP{share}", digits=3) for share in (50, 75))
    for kind, told in KINDS.items()
}


class Found(NamedTuple):
    """What was found in one image, in pixels of the original.

    Attributes:
        size: (height, width) of it.
        boxes, scores, labels: see `acmix_ms.postprocess.Detections`.
        masks: ``counts`` of each (`acmix_ms.masks`), or none at all.
    """

    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[bytes]


class CocoDetection(Evaluator):
    """The evaluator of detection. What it scores are the images that it has seen; their order does not matter.

    All numbers are 0 to 1, as mmdetection tells them. Where there is nothing to be found, they are -1, as pycocotools
    has it: less than any score, so that ``best.ckpt`` is that of an epoch with one.

    Args:
        truth: what an annotation file of COCO holds, or a ``pycocotools.coco.COCO``; it is not changed.
        image_ids: of each sample.
        category_ids: of each label.
        class_names: what label i is called.
        masks: score these too; detections must have some.
    """

    METRICS = (BOX, MASK, *DETAILS["bbox"], *DETAILS["segm"])

    def __init__(
        self,
        truth: Any,
        image_ids: Sequence[int],
        category_ids: Sequence[int],
        class_names: Sequence[str],
        *,
        masks: bool = False,
    ):
        if len(category_ids) != len(class_names):
            raise ValueError(f"category_ids and class_names: {len(category_ids)} and {len(class_names)}, give as many")
        pycocotools("cocoeval")  # what is missing is told before the first epoch, not after it
        self.truth: Mapping = getattr(truth, "dataset", truth)
        self.image_ids = np.asarray(image_ids).tolist()  # Python's numbers, which JSON has
        self.category_ids, self.class_names = np.asarray(category_ids).tolist(), list(class_names)
        self.masks = masks
        self.found: dict[int, Found] = {}  # by sample

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is scored: ``"bbox"``, and with masks ``"segm"``."""
        return ("bbox", "segm") if self.masks else ("bbox",)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See `Evaluator`."""
        return self.METRICS if self.masks else (BOX, *DETAILS["bbox"])

    def update(self, outputs: Sequence[Detections], targets: Sequence[np.ndarray], ids: np.ndarray) -> None:
        """Add a batch: detections on the canvas, (places (B, 4),), of which `boxes_in_image` tells the meaning."""
        (places,) = targets
        for detections, place, sample in zip(outputs, np.asarray(places), np.asarray(ids).tolist()):
            if sample == PADDING:
                continue
            detections, size = Detections(*detections), (int(place[2]), int(place[3]))
            boxes, pasted = boxes_in_image(detections.boxes, place), []
            if self.masks:
                if detections.masks is None:
                    raise ValueError("outputs: detections without masks, but masks are to be scored")
                pasted = encode_pasted(detections.masks, boxes, *size)
            self.add(sample, Found(size, boxes, detections.scores, detections.labels, pasted))

    def add(self, sample: int, found: Found) -> None:
        """Add an image, once more only in place of itself. What is not finite was not found."""
        fine = np.isfinite(found.boxes).all(1) & np.isfinite(found.scores)
        kept = [found.masks[i] for i in np.flatnonzero(fine)] if self.masks else []
        boxes = np.asarray(found.boxes, np.float32).reshape(-1, 4)[fine]
        scores, labels = np.asarray(found.scores, np.float32)[fine], np.asarray(found.labels, np.int64)[fine]
        self.found[int(sample)] = Found(found.size, boxes, scores, labels, kept)

    def state(self) -> dict[str, np.ndarray]:
        """See `Evaluator`: all images one behind the other."""
        images = list(self.found.values())
        pasted = [mask for found in images for mask in found.masks]
        return {
            "samples": np.asarray(list(self.found), np.int64),
            "sizes": np.asarray([found.size for found in images], np.int64).reshape(-1, 2),
            "counts": np.asarray([len(found.boxes) for found in images], np.int64),
            "boxes": np.concatenate([np.empty((0, 4), np.float32), *(found.boxes for found in images)]),
            "scores": np.concatenate([np.empty(0, np.float32), *(found.scores for found in images)]),
            "labels": np.concatenate([np.empty(0, np.int64), *(found.labels for found in images)]),
            "masks": np.frombuffer(b"".join(pasted), np.uint8),
            "mask_lengths": np.asarray([len(mask) for mask in pasted], np.int64),
        }

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        """See `Evaluator`."""
        self.found = {}
        for state in states:
            ends, mask_ends = np.cumsum(state["counts"]), np.cumsum(state["mask_lengths"])
            data, starts = state["masks"].tobytes(), mask_ends - state["mask_lengths"]
            pasted = [data[start:end] for start, end in zip(starts.tolist(), mask_ends.tolist())]
            for sample, size, count, end in zip(state["samples"], state["sizes"].tolist(), state["counts"], ends):
                part = slice(end - count, end)
                rows = (state[name][part] for name in ("boxes", "scores", "labels"))
                self.found[int(sample)] = Found(tuple(size), *rows, pasted[part])

    def result(self) -> dict:
        """See `Evaluator`: pycocotools' twelve numbers (`NAMES`) of boxes, such as ``bbox_mAP``, and with masks of
        these, such as ``segm_mAP``; ``count`` of images, ``scoring_seconds``; ``classes``: of each its ``name``,
        ``objects`` that are no crowds, and `BY_CLASS` such as ``bbox_AP``, None where there is nothing to be found.
        """
        began = time.perf_counter()
        scores: dict[str, Any] = {}
        objects = self._objects()
        classes: list[dict] = [{"name": name, "objects": count} for name, count in zip(self.class_names, objects)]
        for kind in self.kinds:
            numbers, precision = self._score(kind)
            scores.update({f"{kind}_{name}": number for name, number in zip(NAMES, numbers)})
            for found, values in zip(classes, by_class(precision)):
                found.update({f"{kind}_{name}": value for name, value in values.items()})
        seconds = time.perf_counter() - began
        return {**scores, "count": len(self.found), "scoring_seconds": round(seconds, 3), "classes": classes}

    def results(self, *kinds: str) -> list[dict]:
        """All that was found, as COCO's results have it, image by image: each with its ``bbox`` (x, y, width, height),
        with its ``segmentation``, or with both, as ``kinds`` say.
        """
        entries = []
        for sample in sorted(self.found):
            found, image = self.found[sample], self.image_ids[sample]
            for index, (box, score, label) in enumerate(zip(found.boxes.tolist(), found.scores.tolist(), found.labels)):
                entry = {"image_id": image, "category_id": self.category_ids[label], "score": score}
                if "bbox" in kinds:
                    entry["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                if "segm" in kinds:
                    entry["segmentation"] = {"size": list(found.size), "counts": found.masks[index]}
                entries.append(entry)
        return entries

    def write_results(self, path: str | os.PathLike, *kinds: str) -> Path:
        """Write `results` as JSON that other tools read: boxes to thousandths of a pixel, scores to six digits.

        Without ``kinds`` all that is scored is written. Mind that pycocotools takes the size of a detection from its
        box where it has one: what scores masks by size as `result` does is a file of ``"segm"`` alone.

        Raises:
            UserError: it cannot be written.
        """
        if not set(kinds) <= set(self.kinds):
            raise ValueError(f"kinds={kinds}: choose from {', '.join(self.kinds)}")
        entries = self.results(*(kinds or self.kinds))
        for entry in entries:
            entry["score"] = round(entry["score"], 6)
            if "bbox" in entry:
                entry["bbox"] = [round(value, 3) for value in entry["bbox"]]
            if "segmentation" in entry:
                entry["segmentation"] = run_lengths(**entry["segmentation"])
        write_text(path, json.dumps(entries, separators=(",", ":")) + "\n")
        return Path(path)

    def _annotations(self) -> list[dict]:
        """What there is to be found in the images that were seen."""
        seen, known = {self.image_ids[sample] for sample in self.found}, set(self.category_ids)
        chosen = [a for a in self.truth["annotations"] if a["image_id"] in seen and a["category_id"] in known]
        # Copies, because pycocotools writes into them; numbered anew, because it takes number 0 for no object at all.
        return [
            {"iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3], **entry, "id": number}
            for number, entry in enumerate(chosen, 1)
        ]

    def _objects(self) -> list[int]:
        """Of each class, without crowds."""
        counts = Counter(entry["category_id"] for entry in self._annotations() if not entry["iscrowd"])
        return [counts[category] for category in self.category_ids]

    def _score(self, kind: str) -> tuple[list[float], np.ndarray]:
        """The twelve numbers, and pycocotools' precision with the classes in the order of the labels."""
        truth, found = self._annotations(), self.results(kind)
        if kind == "segm":
            bare = next((entry for entry in truth if not entry.get("segmentation")), None)
            if bare:
                raise UserError(f"image {bare['image_id']}: an object without mask, but masks are to be scored")
            areas = pycocotools("mask").area([entry["segmentation"] for entry in found]) if found else ()
        else:
            areas = [entry["bbox"][2] * entry["bbox"][3] for entry in found]
        for number, (entry, area) in enumerate(zip(found, areas), 1):
            entry.update(id=number, iscrowd=0, area=area)
        evaluation = pycocotools("cocoeval").COCOeval(self._index(truth), self._index(found), kind)
        evaluation.params.imgIds = sorted(self.image_ids[sample] for sample in self.found)
        evaluation.params.catIds = sorted(self.category_ids)
        with contextlib.redirect_stdout(io.StringIO()):  # it talks
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        order = [evaluation.params.catIds.index(category) for category in self.category_ids]
        return [float(number) for number in evaluation.stats], evaluation.eval["precision"][:, :, order]

    def _index(self, annotations: list[dict]) -> Any:
        """A ``COCO`` with these annotations."""
        made = pycocotools("coco").COCO()
        categories = [{"id": number, "name": name} for number, name in zip(self.category_ids, self.class_names)]
        made.dataset = {"images": self.truth["images"], "categories": categories, "annotations": annotations}
        with contextlib.redirect_stdout(io.StringIO()):
            made.createIndex()
        return made

    @classmethod
    def tables(cls, result: Mapping) -> list[dict]:
        """The scores by size, and the classes that are found worst."""
        kinds = [kind for kind in KINDS if f"{kind}_mAP" in result]
        known = [found for found in result["classes"] if found[f"{kinds[0]}_AP"] is not None]
        worst = sorted(known, key=lambda found: found[f"{kinds[-1]}_AP"])[:WORST_CLASSES]
        columns = [(kind, name) for kind in kinds for name in ("AP", "AP_50")]
        return [
            {
                "title": "By size",
                "note": "Small is up to 32 x 32 pixels, medium up to 96 x 96.",
                "header": ["size", *(f"{KINDS[kind]} {name}" for kind in kinds for name in ("mAP", "AR"))],
                "rows": size_rows(result, kinds),
            },
            {
                "title": f"Worst classes of {len(known)}",
                "note": "",
                "header": ["class", "objects", *(_label(kind, name) for kind, name in columns)],
                "rows": [[c["name"], c["objects"], *(_cell(c[f"{k}_{n}"]) for k, n in columns)] for c in worst],
            },
        ]

    @classmethod
    def details(cls, result: Mapping) -> str:
        """A line for each size, and one for each class."""
        kinds = [kind for kind in KINDS if f"{kind}_mAP" in result]
        sizes = ["size", *(f"{KINDS[kind]} {name}" for kind in kinds for name in ("mAP", "AR"))]
        columns = [(kind, name) for kind in kinds for name in BY_CLASS]
        header = ["class", "objects", *(_label(kind, name) for kind, name in columns)]
        rows = [[c["name"], str(c["objects"]), *(_cell(c[f"{k}_{n}"]) for k, n in columns)] for c in result["classes"]]
        return f"{_lines(sizes, size_rows(result, kinds))}\n\n{_lines(header, rows)}"


def by_class(precision: np.ndarray) -> list[dict[str, float | None]]:
    """pycocotools' (overlaps, recalls, classes, sizes, numbers of detections) -> `BY_CLASS` of each class."""
    parts = [
        precision[:, :, :, 0, -1],
        precision[AP_50, :, :, 0, -1],
        precision[AP_75, :, :, 0, -1],
        *(precision[:, :, :, size, -1] for size in range(1, len(SIZES))),
    ]
    return [
        {name: _mean(part[..., index]) for name, part in zip(BY_CLASS, parts)} for index in range(precision.shape[2])
    ]


def size_rows(result: Mapping, kinds: Sequence[str]) -> list[list[str]]:
    """Of all objects and of those of each size: mean AP and AR of each kind."""
    rows = []
    for size in SIZES:
        names = ("mAP", "AR_100") if size == "all" else (f"mAP_{size[0]}", f"AR_{size[0]}")
        values = (result[f"{kind}_{name}"] for kind in kinds for name in names)
        rows.append([size, *(_cell(None if value < 0 else value) for value in values)])
    return rows


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _label(kind: str, name: str) -> str:
    return f"{KINDS[kind]} {name.replace('_', '')}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in (header, *rows)
    )
