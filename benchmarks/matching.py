"""Where a RetinaNet's anchors are matched with objects: on the host, as training does it, or in the graph of the step.

``python -m benchmarks.matching``: milliseconds an image of both by turns, for an image that fills its canvas.
"""

from __future__ import annotations

import time

import numpy as np

from acmix_ms import runtime
from acmix_ms.arguments import ArgumentParser, positive_int
from acmix_ms.errors import run_cli
from benchmarks.protocol import interleave

CLASSES = 80


def sides(height: int, width: int, objects: int) -> dict:
    """A step of each: on the host in NumPy, one core; in a graph of plain operators, which has no ignored anchors."""
    import mindspore as ms

    from models.detection import retinanet, sampling

    random = np.random.default_rng(0)
    corners = random.uniform(0, 0.8, (objects, 2)) * (width, height)
    boxes = np.concatenate([corners, corners + random.uniform(16, 0.2 * height, (objects, 2))], 1).astype(np.float32)
    labels = random.integers(0, CLASSES, objects).astype(np.int32)
    anchors = ms.Tensor(retinanet.ANCHORS.all(retinanet.ANCHORS.sizes(height, width))[None])
    given = ms.Tensor(boxes[None])
    there, present = ms.ops.ones(anchors.shape[:2], ms.bool_), ms.ops.ones(given.shape[:2], ms.bool_)

    def matched(anchors, there, given, present):
        return sampling.assign(anchors, there, given, present, retinanet.ASSIGNER.positive, True)

    in_graph = runtime.compiled(matched)
    return {
        "host": lambda: retinanet.targets_of(boxes, labels, (height, width), (height, width), CLASSES),
        "graph": lambda: in_graph(anchors, there, given, present).asnumpy(),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = ArgumentParser(prog="benchmarks.matching", description=__doc__)
    parser.add_argument("--objects", type=positive_int, default=20, metavar="N", help="in the image; 20")
    parser.add_argument("--canvas", type=positive_int, nargs=2, default=(800, 1344), metavar="N", help="800 1344")
    args = parser.parse_args(argv)
    runtime.start("CPU", "graph")
    def timed(step):
        def run(count: int) -> list[float]:
            seconds = []
            for _ in range(count):
                began = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - began)
            return seconds

        return run

    found = sides(*args.canvas, args.objects)
    timings, _ = interleave({name: timed(step) for name, step in found.items()}, warmup=2, repetitions=7)
    for name, timing in timings.items():
        print(f"{name:6} {1e3 * timing.median:7.1f} ms an image ({args.objects} objects, {args.canvas})")
    return 0


if __name__ == "__main__":
    run_cli(main)
