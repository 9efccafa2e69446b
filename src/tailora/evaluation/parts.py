"""Parts of the data that are scored separately: records of groups that were seen in training, and the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tailora.data.known_values import KnownValues, joined, known_values
from tailora.data.reading import ReadingSettings
from tailora.data.records import TextUse, splits
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record
from tailora.inference.setup import trained_values


class TrainingData:
    """The data that a system was trained on: read when it is needed, and read once.

    Args:
        source: the source of the records to score; its `train` split is the default.
        reading: the settings for reading both.
        trained: how the data was read in the adapter's training; used for settings that `reading` leaves open.
        train: the training data if it is elsewhere: a file, a folder of splits, or a data set's name.

    Attributes:
        is_known: whether there are training data.
        is_named: whether the user named them.
    """

    def __init__(
        self,
        source: str | None,
        reading: ReadingSettings,
        trained: TrainedReading | None = None,
        train: str | None = None,
    ) -> None:
        self._reading, self._trained = reading, trained
        self._source = train or source
        has_split = self._source is not None and "train" in splits(self._source)
        self._split = "train" if has_split else None
        self.is_known = has_split or train is not None
        self.is_named = train is not None

    @cached_property
    def records(self) -> list[Record]:
        """The training records; their texts do not matter.

        Raises:
            DataError: they cannot be read.
        """
        return self._read("unused")

    @cached_property
    def examples(self) -> list[Record]:
        """The training records with their references.

        Raises:
            DataError: they cannot be read, or lack references.
        """
        return self._read("required")

    def known_values(self, base: str | None, adapters: Mapping[str, Path]) -> KnownValues:
        """Return the values that systems were trained on: those in the adapters, and those of data named for it.

        Args:
            base: the base model, for adapters that were merged into it.
            adapters: paths of the adapters by name.

        Raises:
            DataError: the training data cannot be read.
        """
        own = trained_values(base, adapters)
        return joined((own, known_values(self.records))) if self.is_named else own

    def _read(self, texts: TextUse) -> list[Record]:
        assert self._source is not None
        return list(self._reading.load(self._source, self._split, texts=texts, trained=self._trained).records)


def parts_of(records: Sequence[Record], training: TrainingData) -> dict[str, list[int]]:
    """Return the numbers of the records in each part: "all", and "seen" and "unseen" if there are both.

    Args:
        records: the records to score.
        training: the groups of the training data are the seen ones.

    Raises:
        DataError: the training data cannot be read.
    """
    parts = {"all": list(range(len(records)))}
    if all(record.group is None for record in records) or not training.is_known:
        return parts
    known = {record.group for record in training.records}
    seen = [number for number, record in enumerate(records) if record.group in known]
    unseen = [number for number, record in enumerate(records) if record.group not in known]
    return parts | {"seen": seen, "unseen": unseen} if seen and unseen else parts
