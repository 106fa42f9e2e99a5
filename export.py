"""Export a model: ``python export.py --checkpoint runs/.../best.ckpt --format mindir``."""

from acmix_ms.commands.export import command, main

__all__ = ["command", "main"]

if __name__ == "__main__":
    command()
