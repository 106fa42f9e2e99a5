"""Images in MindRecord files: a few large ones instead of a million small ones. `acmix_ms.data.records` says which."""

from __future__ import annotations

from acmix_ms.config import DataConfig
from acmix_ms.data.labelled import LabelledLoader
from acmix_ms.data.records import Records, describe


class MindRecordLoader(LabelledLoader):
    """The same samples in the same order as from the image folder that the files were made of, if none was skipped."""

    def __init__(self, config: DataConfig, split: str, *, rank: int = 0, size: int = 1, seed: int = 0):
        found = describe(config.path)
        self._records = Records(config.path, found.splits[split].files)
        names, count = found.class_names, len(self._records)
        super().__init__(config, split, class_names=names, num_samples=count, rank=rank, size=size, seed=seed)

    def read(self, sample: int) -> tuple[bytes, int]:
        """The record of a sample."""
        return self._records[sample]

    def name(self, sample: int) -> str:
        """The file of a sample and the number of its record."""
        return self._records.name(sample)
