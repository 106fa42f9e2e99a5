"""The official code: what a clone of it holds, and what the Python that runs it must have."""

from __future__ import annotations

import subprocess
from pathlib import Path

from acmix_ms import runtime
from acmix_ms.errors import UserError

FILES = ("ResNet/ResNet_ImageNet.py", "Swin-Transformer/models/swin_transformer_acmix.py")
MODELS = ("acmix_resnet26", "acmix_resnet38", "acmix_resnet50", "acmix_swin_tiny", "acmix_swin_small")
TORCH = "2.13.0"  # the version that was tried


def require(folder: str) -> str:
    """The clone's whole path, if the files that are run are there.

    Raises:
        UserError: they are not.
    """
    for file in FILES:
        if not (Path(folder) / file).is_file():
            raise UserError(
                f"--against {folder}: there is no {file}; give the folder of a clone of "
                "https://github.com/LeapLabTHU/ACmix"
            )
    return str(Path(folder).resolve())


def require_torch(python: str) -> None:
    """See that the Python that runs the clone has what that needs.

    Raises:
        UserError: it has not.
    """
    try:
        command = [python, "-c", "import numpy, torch"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=runtime.foreign_environment())
        reason = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else None
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise UserError(
            f"--official-python {python} cannot import PyTorch and NumPy ({reason}): make an "
            f"environment of its own, pip install torch=={TORCH} numpy in it, and give its Python"
        )
