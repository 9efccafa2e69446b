"""Parts of the records to score by: those whose group training had, and the others."""

from __future__ import annotations

from collections.abc import Sequence

from tailora.data.reading import ReadingSettings
from tailora.data.records import splits
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record


def parts_of(
    records: Sequence[Record], source: str, reading: ReadingSettings, trained: TrainedReading | None = None
) -> dict[str, list[int]]:
    """Numbers of all records; and, where they have groups of which training had some only, of those and the others.

    Args:
        records: to score texts for.
        source: what they were read from; its `train` split says which groups training had.
        reading: how it is read.
        trained: how the training of the adapter in use read its data, for what `reading` leaves open.

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
