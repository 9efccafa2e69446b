"""The rows of a data file, and the records into which they are gathered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tailora.data.records import DataFile

T = TypeVar("T")


@dataclass(frozen=True)
class InputRows:
    """The rows of a data file, and the records into which they are gathered.

    Attributes:
        ids: of the rows, in the order of the file.
        places: for each row, the number of its record.
        limited: only the first records of the file are meant.
    """

    ids: tuple[str, ...]
    places: tuple[int, ...]
    limited: bool = False

    @classmethod
    def of(cls, data: DataFile, limit: int | None = None) -> InputRows:
        """The rows of the first `limit` records of a file."""
        kept = [number for number, place in enumerate(data.places) if limit is None or place < limit]
        ids = tuple(data.rows[number].id for number in kept)
        return cls(ids, tuple(data.places[number] for number in kept), limit is not None)

    @property
    def count(self) -> int:
        """Number of records into which the rows are gathered."""
        return len(set(self.places))

    def spread(self, values: Sequence[T]) -> list[T]:
        """Return one value for each row, from one for each record or one for each row."""
        return list(values) if len(values) == len(self.places) else [values[place] for place in self.places]

    def numbers(self, records: Collection[int]) -> list[int]:
        """Return the numbers of the rows of some records."""
        wanted = set(records)
        return [number for number, place in enumerate(self.places) if place in wanted]

    def gathered(self, texts: Sequence[str]) -> list[str]:
        """Return one text for each record where all rows of a record have the same, else the texts as they are."""
        first: dict[int, str] = {}
        for text, place in zip(texts, self.places, strict=True):
            if first.setdefault(place, text) != text:
                return list(texts)
        return [first[place] for place in sorted(first)]
