"""Train a model: ``python train.py --config configs/classification/acmix_resnet_digits.yaml [key=value ...]``."""

from acmix_ms.commands.train import command, main, train

__all__ = ["command", "main", "train"]

if __name__ == "__main__":
    command()
