"""`tailora generate`: texts for records, written by a base model and any number of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import model_validator

from tailora.core.console import message_console
from tailora.core.errors import DataError, SettingsError
from tailora.core.files import require_own
from tailora.core.settings import Unset
from tailora.data.readers import json_text, jsonl, piped
from tailora.data.reading import SplitSettings
from tailora.data.row_selection import FirstRecords
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record
from tailora.inference.outputs import is_outputs
from tailora.inference.setup import trained_reading
from tailora.inference.text_job import TextJob
from tailora.inference.writing import WritingSettings


class GenerateSettings(WritingSettings, SplitSettings):
    """Settings of `tailora generate`."""

    heading = "data"
    main = "input"
    input: Annotated[str | None, Unset("none")] = None
    """Records to write about: a file, a folder of splits, or the name of a data set. JSON lines may name an adapter."""
    record: Annotated[str | None, Unset("none")] = None
    """One record instead of an input: `name : Blue Spice | Type : pub`, or its facts as JSON."""
    gather: bool = False
    """Write one text for each record instead of each row. Rows with equal facts are one record."""
    output: Annotated[Path | None, Unset("print the texts")] = None
    """JSON Lines file to write, with one line for each row of the input, in the same order."""

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if (self.input is None) == (self.record is None):
            which = (
                "there is nothing to write about" if self.input is None else "--input and --record exclude each other"
            )
            raise SettingsError(which, where="input", hint="give one of --input and --record")
        self.check_model()
        return self


def run(settings: GenerateSettings) -> dict[str, Any]:
    """Write texts for records, into `settings.output` or onto stdout.

    With an output, each text is kept as soon as it is written: a run that was killed continues where it stopped.

    Returns:
        Counts, seconds and tokens a second; the rows themselves under `outputs` where no file was written.

    Raises:
        UserError: the input, an adapter or the base cannot be read, or they do not belong together.
    """
    console, output = message_console(), settings.output
    records = read_records(settings, trained_reading(settings.base, settings.adapters()))
    job = TextJob(records, settings, source=settings.input, console=console)
    chooses = settings.rerank or settings.faithful
    alone = output is None and len(records) == 1 and not chooses and not settings.ray
    stream = _print_piece if alone else None
    texts = job.write(output, stream)
    if output is not None:
        console.print(texts.wrote(output), soft_wrap=True, highlight=False, markup=False)
        return {**texts.summary, "output": str(output)}
    print("" if stream else "\n".join(row["text"] for row in texts.rows))
    for row in texts.rows:
        if row.get("slot_errors"):
            named = f"record {row['id']} has slot errors: {', '.join(row['slot_errors'])}"
            console.print(named, soft_wrap=True, highlight=False, markup=False)
    return {**texts.summary, "outputs": texts.rows}


def read_records(settings: GenerateSettings, trained: TrainedReading | None = None) -> list[Record]:
    """Return the records to write about: one for each row of the input, unless rows are gathered.

    Args:
        settings: the input, and how it is read.
        trained: how the adapter's training read its data, for what the settings leave open.
    """
    if settings.record is not None:
        return [parse_record(settings.record)]
    assert settings.input is not None
    first = None if settings.limit is None else FirstRecords(settings.limit)
    data = settings.load(settings.input, settings.split, texts="unused", trained=trained, selection=first)
    output = settings.output
    if output is not None and output.exists() and data.path.exists() and output.samefile(data.path):
        raise SettingsError("is the input itself", where=output, hint="name another file with --output")
    if output is not None:
        require_own(output, is_outputs, "a file of texts that `tailora generate` wrote")
    return list((data.records if settings.gather else data.rows)[: settings.limit])


def parse_record(text: str) -> Record:
    """Return a record from a command line: `attribute : value | …`, or facts as JSON.

    Raises:
        DataError: it is neither.
    """
    where = "--record"
    if text.lstrip().startswith(("{", "[")):
        value = json_text.whole(text, where, hint="quote it for your shell")
        if not isinstance(value, dict) or not isinstance(value.get("facts"), dict | list):
            return Record("1", jsonl.parse_facts(value, where), ())
        adapter = jsonl.parse_adapter(value, where)
        return Record("1", jsonl.parse_facts(value["facts"], where), (), adapter=adapter)
    try:
        return Record("1", piped.parse_facts(text), ())
    except ValueError as error:
        hint = "write attribute : value with spaces around the colon, and separate facts by |"
        raise DataError(f"{str(error)!r} is not a fact", where=where, hint=hint) from error


def _print_piece(_: int, piece: str) -> None:
    print(piece, end="", flush=True)
