"""The settings with which every command reads data, and the one place that applies them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from rich.console import Console

from tailora.core.settings import Settings, Verbatim
from tailora.data.columns import check_columns, parse_columns, show_columns
from tailora.data.records import DataFile, Texts, load
from tailora.data.trained_reading import TrainedReading, reading_meta


def _columns(value: Any) -> Any:
    """A column mapping from its flags, from one text in YAML, or as a mapping."""
    if isinstance(value, str):
        value = parse_columns([value])
    elif isinstance(value, list | tuple):
        value = parse_columns([str(each) for each in value])
    return check_columns(value) if isinstance(value, Mapping) else value


class ReadingSettings(Settings):
    """How the data is read."""

    format: str | None = None
    """Format of the data: e2e, piped, webnlg-json, webnlg-xml, dart, jsonl, csv or tsv; by default recognised by the
    content."""
    columns: Annotated[dict[str, Any], Verbatim(), BeforeValidator(_columns)] = Field(default_factory=dict)
    """Which column of a table is what, for example text=ref,facts=name+area or ignore=id+url; see docs/data.md."""
    language: str | None = None
    """Language of the texts to use, in files that hold several; all uses every language."""
    all_texts: bool = False
    """Use the texts of WebNLG that its annotators marked as faulty as well."""

    def reader_options(self) -> dict[str, Any]:
        """The options for `data.records.load` that these settings stand for."""
        return {
            "format": self.format,
            "columns": self.columns or None,
            "language": self.language,
            "all_texts": self.all_texts,
        }

    def reading_meta(self) -> dict[str, Any]:
        """What an adapter keeps of these settings in its metadata, for `TrainedReading`."""
        return reading_meta(self.format, self.columns, self.language)

    def load(
        self,
        source: str,
        split: str | None = None,
        *,
        texts: Texts = "required",
        trained: TrainedReading | None = None,
    ) -> DataFile:
        """Read a file as these settings say, and print what its owner should know to standard error.

        Args:
            source: see `data.records.load`.
            split: see `data.records.load`.
            texts: see `data.records.load`.
            trained: how the training of the adapter in use read its data, for what these settings leave open.

        Raises:
            DataError: it cannot be read; see `data.records.load`.
        """
        data = load(source, split=split, texts=texts, trained=trained, **self.reader_options())
        announce(data, texts)
        if data.columns_from_training and trained is not None:
            line = f"{data.path}: read with the adapter's training columns ({show_columns(trained.columns)})"
            Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)
        return data


def announce(data: DataFile, texts: Texts = "required") -> None:
    """Print to standard error what is probably not meant so, and how many texts are left out."""
    console = Console(stderr=True)
    for note in data.notes:
        console.print(f"warning: {data.path}: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if data.left_out and texts != "unused":
        line = f"{data.path}: {data.left_out:,} texts that annotators marked as faulty are left out (--all-texts)"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
