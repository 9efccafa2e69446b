"""Parts of the data that are scored separately: records of groups that were seen in training, and the others."""

from __future__ import annotations

from collections.abc import Sequence

from tailora.data.reading import ReadingSettings
from tailora.data.records import splits
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record


def parts_of(
    records: Sequence[Record], source: str, reading: ReadingSettings, trained: TrainedReading | None = None
) -> dict[str, list[int]]:
    """Return the numbers of the records in each part: "all", and "seen" and "unseen" if there are both.

    Args:
        records: the records to score.
        source: the source of the records; the groups of its `train` split are the seen ones.
        reading: the settings for reading the source.
        trained: how the data was read in the adapter's training; used for settings that `reading` leaves open.

    Raises:
        DataError: the train split cannot be read.
    """
    parts = {"all": list(range(len(records)))}
    if all(record.group is None for record in records) or "train" not in splits(source):
        return parts
    known = {record.group for record in reading.load(source, "train", texts="unused", trained=trained).records}
    seen = [number for number, record in enumerate(records) if record.group in known]
    unseen = [number for number, record in enumerate(records) if record.group not in known]
    return parts | {"seen": seen, "unseen": unseen} if seen and unseen else parts
