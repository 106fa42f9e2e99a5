"""Evaluate a checkpoint: ``python eval.py --checkpoint runs/.../best.ckpt [--config configs/...] [key=value ...]``."""

from acmix_ms.commands.eval import command, evaluate, main

__all__ = ["command", "evaluate", "main"]

if __name__ == "__main__":
    command()
