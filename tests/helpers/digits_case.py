"""Train acmix_resnet_digits for one epoch with deterministic kernels and print a digest. Run by test_digits.

A process of its own, because the number of kernel threads, which decides determinism, is fixed once per process.
"""

from __future__ import annotations

import hashlib
import sys

from acmix_ms import config
from acmix_ms.commands.train import train
from acmix_ms.engine import checkpoint

CONFIG = "configs/classification/acmix_resnet_digits.yaml"
SHORT = ("optim.epochs=1", "data.batch_size=128", "optim.warmup_epochs=0.5", "train.deterministic=true")

if __name__ == "__main__":
    run_dir = sys.argv[1]
    train(config.load(CONFIG, [*SHORT, f"run_dir={run_dir}"]))
    weights, digest = checkpoint.read(f"{run_dir}/last.ckpt").weights, hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    print("digest", digest.hexdigest())
