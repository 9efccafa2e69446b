"""The settings for reading data that commands share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from tailora.core.console import message_console
from tailora.core.settings import Settings, Unset, Verbatim
from tailora.data.columns import check_columns, parse_columns, show_columns
from tailora.data.readers.formats import DataFormat
from tailora.data.records import DataFile, SplitName, TextUse, load
from tailora.data.row_selection import Selection
from tailora.data.trained_reading import TrainedReading, reading_meta


def _columns(value: Any) -> Any:
    """Return a column mapping from the texts of its flags, from one text in YAML, or from a mapping."""
    if isinstance(value, str):
        value = parse_columns([value])
    elif isinstance(value, list | tuple):
        value = parse_columns([str(text) for text in value])
    return check_columns(value) if isinstance(value, Mapping) else value


class ReadingSettings(Settings):
    """How data files are read."""

    heading = "data"
    format: Annotated[DataFormat | None, Unset("recognised by the content")] = None
    """Format of the data. See docs/data.md."""
    columns: Annotated[dict[str, Any], Verbatim(), BeforeValidator(_columns), Unset("recognised by their names")] = (
        Field(default_factory=dict)
    )
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: Annotated[str | None, Unset("the only one of the file")] = None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool = False
    """Also use the WebNLG texts that its annotators marked as faulty."""

    def reader_options(self) -> dict[str, Any]:
        """Return the options for `data.records.load`."""
        return {
            "format": self.format,
            "columns": self.columns or None,
            "language": self.language,
            "all_texts": self.all_texts,
        }

    def reading_meta(self) -> dict[str, Any]:
        """Return what an adapter keeps of these settings in its metadata, for `TrainedReading`."""
        return reading_meta(self.format, self.columns, self.language)

    def load(
        self,
        source: str,
        split: str | None = None,
        *,
        texts: TextUse = "required",
        trained: TrainedReading | None = None,
        selection: Selection | None = None,
    ) -> DataFile:
        """Read a file with these settings, and print warnings about it to standard error.

        Args:
            source: see `data.records.load`.
            split: see `data.records.load`.
            texts: see `data.records.load`.
            trained: how the training of the adapter in use read its data, for what these settings leave open.
            selection: see `data.records.load`.

        Raises:
            DataError: it cannot be read; see `data.records.load`.
        """
        options = self.reader_options()
        data = load(source, split=split, texts=texts, trained=trained, selection=selection, **options)
        announce(data, texts)
        if data.columns_from_training and trained is not None:
            line = f"{data.path}: read with the adapter's training columns ({show_columns(trained.columns)})"
            message_console().print(line, highlight=False, markup=False, soft_wrap=True)
        return data


Limit = Annotated[int | None, Field(ge=1, description="Number of records to use, from the first one on."), Unset("all")]


class ChoiceOfSplit(ReadingSettings):
    """Which part of a data set is used."""

    split: Annotated[SplitName | None, Unset("none")] = None
    """Split to use, if the input is a folder of splits or the name of a data set."""


class SplitSettings(ChoiceOfSplit):
    """Which records of a file or data set are used."""

    limit: Limit = None


def announce(data: DataFile, texts: TextUse = "required") -> None:
    """Print warnings about a file to standard error, and how many of its texts are left out."""
    console = message_console()
    if data.selected is not None:
        console.print(f"{data.path}: {data.selected.sentence}", highlight=False, markup=False, soft_wrap=True)
    for note in data.notes:
        console.print(f"warning: {data.path}: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if data.left_out and texts != "unused":
        line = f"{data.path}: {data.left_out:,} texts that annotators marked as faulty are left out (--all-texts)"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
