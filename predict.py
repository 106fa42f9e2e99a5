"""Classify images: ``python predict.py --checkpoint FILE photo.jpg folder/``."""

from acmix_ms.commands.predict import command, main

__all__ = ["command", "main"]

if __name__ == "__main__":
    command()
