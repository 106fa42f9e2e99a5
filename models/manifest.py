"""What weights were released for models of this zoo: where, under which name and hash, and how good they are.

Facts of the sources alone, as their own pages give them: accuracies are theirs, on ImageNet-1K at 224x224, and were not
measured here. A sha256 is in full where several independent users of a file state the same one (and, if its name
carries the first digits, these agree), else as far as the source itself gives it in the name, else None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from acmix_ms import runtime

SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
PVT = "https://github.com/whai362/PVT/releases/download/v2/"
SAN = "https://drive.google.com/open?id=19ZJn48UpiF_j8e1-UU9UZ4AVfLjmwPzH"  # a folder that holds all of them


@dataclass(frozen=True)
class Release:
    """One released file.

    Args:
        model: its name in this zoo.
        url: of the file, or of the page that offers it.
        top1: accuracy that the source gives, in percent.
        source: the page that the facts are from.
        licence: of the repository that released it; None where it has none.
        file: name of the file, None where the page that offers it alone knows.
        sha256: of the file, in full, its first digits, or None where unknown.
        also: a second place that has the same file.
        note: what tells it from another release for the same model.
        num_classes: of the classifier.
    """

    model: str
    url: str
    top1: float
    source: str
    licence: str | None
    file: str | None = None
    sha256: str | None = None
    also: str | None = None
    note: str = ""
    num_classes: int = 1000

    def command(self) -> str:
        """The command that makes ``create_model(model, pretrained=True)`` find this file."""
        return f"python scripts/convert_torch.py --model {self.model} --input {self.file or 'FILE'}"


def _swin(model: str, size: str, top1: float, sha256: str | None = None) -> Release:
    file = f"swin_{size}_patch4_window7_224.pth"
    return Release(model, SWIN + file, top1, "github.com/microsoft/Swin-Transformer", "MIT", file, sha256)


def _pvt(size: str, top1: float) -> Release:
    file = f"pvt_{size}.pth"
    return Release(f"pvt_{size}", PVT + file, top1, "github.com/whai362/PVT", "Apache-2.0", file)


def _torchvision(sha256: str, top1: float, note: str) -> Release:
    file = f"resnet50-{sha256[:8]}.pth"
    url = f"https://download.pytorch.org/models/{file}"
    return Release("resnet50", url, top1, "github.com/pytorch/vision", "BSD-3-Clause", file, sha256, note=note)


def _acmix(size: str, top1: float, tsinghua: str, google: str) -> Release:
    return Release(
        f"acmix_swin_{size}",
        f"https://cloud.tsinghua.edu.cn/f/{tsinghua}/",
        top1,
        "github.com/LeapLabTHU/ACmix",
        None,
        also=f"https://drive.google.com/file/d/{google}/view",
    )


def _san(depth: int, top1: float) -> Release:
    return Release(f"san{depth}", SAN, top1, "github.com/hszhao/SAN", "MIT", note="the patchwise one")


# The first of several for a model is the one that messages name.
RELEASES = (
    _acmix("tiny", 81.9, "210c89a6f9eb4bd0beb6", "1qJnYhtQ65rWd0zUuV9eZQW5Wxj-TiiSg"),
    _acmix("small", 83.5, "8bed555e75c840f8a00d", "12PhN5YOEtWAgO8eSLhopfCVZ7JozMf9T"),
    _swin("swin_tiny", "tiny", 81.2, "9f71c168d837d1b99dd1dc29e14990a7a9e8bdc5f673d46b04fe36fe15590ad3"),
    _swin("swin_small", "small", 83.2),
    _torchvision(
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 76.13, "IMAGENET1K_V1, the simple recipe"
    ),
    _torchvision(
        "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
        80.858,
        "IMAGENET1K_V2, torchvision's newer recipe",
    ),
    _pvt("tiny", 75.1),
    _pvt("small", 79.8),
    _pvt("medium", 81.2),
    _pvt("large", 81.7),
    Release(
        "deit_tiny",
        "https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth",
        72.2,
        "github.com/facebookresearch/deit",
        "Apache-2.0",
        "deit_tiny_patch16_224-a1311bcf.pth",
        "a1311bcf",
    ),
    _san(10, 77.1),
    _san(15, 78.0),
    _san(19, 78.2),
)


def releases(model: str) -> list[Release]:
    """What was released for a model."""
    return [release for release in RELEASES if release.model == model]


def by_file(path: str | Path) -> Release | None:
    """The release that has a file of this name."""
    return next((release for release in RELEASES if release.file == Path(path).name), None)


def expected_sha256(path: str | Path) -> str | None:
    """The sha256 that a file of this name should have, or its first digits; None where nothing tells.

    Names of files that are not listed tell it too, by the habit of PyTorch's hub: ``resnet50-19c8e357.pth``. Eight
    decimal digits may be a date.
    """
    listed = by_file(path)
    if listed and listed.sha256:
        return listed.sha256
    match = re.search(r"-([0-9a-f]{8,64})$", Path(path).stem)
    return match[1] if match and not match[1].isdecimal() else None


def cached(model: str) -> Path:
    """Where ``create_model(model, pretrained=True)`` looks."""
    return runtime.weights_folder() / f"{model}.safetensors"


def table() -> str:
    """All releases as a Markdown table."""
    rows = ["| model | top-1 (theirs) | file | sha256 | licence | from |", "|---|---|---|---|---|---|"]
    for release in RELEASES:
        link = f"[{release.file or 'page'}]({release.url})"
        link += f" or [here]({release.also})" if release.also else ""
        link += f" ({release.note})" if release.note else ""
        digits = f"`{release.sha256[:8]}`" if release.sha256 else "unknown"
        cells = (f"`{release.model}`", f"{release.top1:g}", link, digits, release.licence or "none stated")
        rows.append(f"| {' | '.join(cells)} | {release.source} |")
    return "\n".join(rows)
