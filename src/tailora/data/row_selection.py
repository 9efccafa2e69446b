"""Reading a part of the rows of a large file: the first ones, or a sample."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

WHOLE = 100_000
"""Rows up to which a file is always read as a whole."""
_GROWTH = 4  # how many times more rows are read if the first ones were not enough


class RowSource(Protocol):
    """Rows that can be read by their numbers.

    Attributes:
        path: the file, or the name of the data set, for messages.
        count: number of rows.
        notes: sentences for the user.
    """

    @property
    def path(self) -> Path:
        """See the attributes."""

    @property
    def count(self) -> int:
        """See the attributes."""

    @property
    def notes(self) -> tuple[str, ...]:
        """See the attributes."""

    def read(self, rows: Sequence[int] | None = None) -> str:
        """Return rows as JSON lines, in which line N is row N: lines of rows that are not wanted are blank.

        Args:
            rows: numbers of rows from 0, ascending; None for all.
        """


@dataclass(frozen=True)
class FirstRecords:
    """The first records are wanted.

    Attributes:
        records: how many.
    """

    records: int

    def start(self) -> int:
        """Return the number of rows to try first."""
        return max(self.records, WHOLE)

    def rows(self, size: int, _: int) -> Sequence[int]:
        """Return the numbers of `size` rows."""
        return range(size)

    def is_met(self, records: int, _: int) -> bool:
        """Return whether rows are enough that have these numbers of records and texts."""
        return records >= self.records

    def describe(self, rows: int, count: int) -> str:
        """Return a sentence for the user."""
        return f"the first {rows:,} of {count:,} rows are read"


@dataclass(frozen=True)
class RowSample:
    """Rows from anywhere in the file are wanted.

    Attributes:
        size: how many.
        seed: of the sample.
        texts: how many texts they should have; if they have fewer, more rows are read.
    """

    size: int
    seed: int
    texts: int = 0

    def start(self) -> int:
        """Return the number of rows to try first."""
        return self.size

    def rows(self, size: int, count: int) -> Sequence[int]:
        """Return the numbers of `size` of `count` rows, each set of rows with the same probability."""
        return sorted(random.Random(f"{self.seed} rows").sample(range(count), size))

    def is_met(self, _: int, texts: int) -> bool:
        """Return whether rows are enough that have these numbers of records and texts."""
        return texts >= self.texts

    def describe(self, rows: int, count: int) -> str:
        """Return a sentence for the user."""
        return f"{rows:,} of {count:,} rows are read, drawn at random with seed {self.seed}"


Selection = FirstRecords | RowSample


@dataclass(frozen=True)
class RowsRead:
    """Which rows of a file were read.

    Attributes:
        rows: how many were read.
        count: how many the file has.
        seed: of the sample; None for the first rows.
        sentence: the same, for the user.
    """

    rows: int
    count: int
    seed: int | None
    sentence: str


def read_selected(
    source: RowSource, selection: Selection, counts_of: Callable[[str], tuple[int, int]]
) -> RowsRead | None:
    """Read as few rows as a selection needs, and more of them as long as they are not enough.

    Args:
        source: the rows.
        selection: what is wanted.
        counts_of: reads the text of rows and returns how many records and texts they have. The last text that it is
            given is that of the rows that are read.

    Returns:
        Which rows were read; None for all, as in a file of up to `WHOLE` rows.
    """
    count = source.count
    size = selection.start()
    while count > WHOLE and size < count:
        if selection.is_met(*counts_of(source.read(selection.rows(size, count)))):
            seed = selection.seed if isinstance(selection, RowSample) else None
            return RowsRead(size, count, seed, selection.describe(size, count))
        size *= _GROWTH
    counts_of(source.read())
    return None
