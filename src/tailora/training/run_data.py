"""The records, prompts and examples of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from tailora.core.errors import DataError, SettingsError
from tailora.data import records as record_files
from tailora.data.examples import Example, build_examples
from tailora.data.prompts import PromptFormat
from tailora.data.row_selection import WHOLE, FirstRecords, RowSample, RowsRead, Selection
from tailora.data.split_names import SplitName
from tailora.data.values import Record
from tailora.inserts.prefix import room_beside
from tailora.models.config import context_of
from tailora.models.load import Base
from tailora.training.run_folder import trained_data
from tailora.training.settings import TrainSettings


class RunRecords(NamedTuple):
    """The records of a run.

    Attributes:
        train: to train on.
        valid: to validate on; may be empty.
        selected: which rows of the training data were read; None for all.
    """

    train: list[Record]
    valid: list[Record]
    selected: RowsRead | None


def read_records(settings: TrainSettings) -> RunRecords:
    """Read the records of a run: of large files, only the rows that `limit`, `valid_limit` or `max_steps` can use.

    Raises:
        DataError: the data cannot be read, or is a run directory.
    """
    for place in (settings.data, settings.valid):
        if place is not None and (data := trained_data(Path(place))) is not None:
            hint = f"give the data that it was trained on ({data})"
            raise DataError("is a run directory, which contains no records", where=place, hint=hint)
    names = record_files.splits(settings.data)
    train = settings.load(settings.data, "train" if names else None, selection=_selection(settings))
    first = None if settings.valid_limit is None else FirstRecords(settings.valid_limit)
    valid: Sequence[Record] = ()
    if settings.valid is not None:
        split: SplitName | None = "valid" if record_files.splits(settings.valid) else None
        valid = settings.load(settings.valid, split, selection=first).records
    elif "valid" in names:
        valid = settings.load(settings.data, "valid", selection=first).records
    return RunRecords(list(train.records[: settings.limit]), list(valid[: settings.valid_limit]), train.selected)


def _selection(settings: TrainSettings) -> Selection | None:
    """Return what a run can use of its training data; None for all of it."""
    if settings.limit is not None:
        return FirstRecords(settings.limit)
    if settings.max_steps is None:
        return None
    # A sample without replacement, like the examples of an epoch: the run ends before it would use one twice.
    texts = settings.max_steps * settings.batch_size
    rows = texts if settings.language is None else max(texts, WHOLE)  # the others are in other languages
    return RowSample(rows, settings.seed, texts)


def prompts_of(base: Base, settings: TrainSettings, records: Sequence[Record]) -> PromptFormat:
    """Return how a run writes the prompts of records.

    Raises:
        SettingsError: the settings ask for the base's chat template, and it has none.
    """
    form, style = settings.prompt_form, settings.linearization
    return PromptFormat.of_training(base.tokenizer, form=form, style=style, folder=base.folder, records=records)


def examples_of(
    records: Sequence[Record],
    base: Base,
    settings: TrainSettings,
    console: Console,
    prompts: PromptFormat | None = None,
) -> list[Example]:
    """Turn records into examples with a base's tokenizer, and print how many there are and how many were left out.

    Args:
        records: the records.
        base: the base model; its context bounds the length of an example.
        settings: the settings of the run.
        console: where the numbers are printed.
        prompts: how prompts are written; by default `prompts_of` these records.

    Raises:
        DataError: an example is too long, or none is left.
    """
    config = base.model.config
    prefix = settings.prefix_tokens if settings.method == "prefix" else 0
    room = room_beside(prefix, config, context_of(config))
    longest = settings.max_length if room is None else min(settings.max_length, room)
    if prefix and longest < 2:
        what = f"{prefix:,} virtual tokens leave no room for texts in the base's context"
        raise SettingsError(what, where="prefix_tokens", hint="lower --prefix-tokens")
    examples, report = build_examples(
        records,
        base.tokenizer,
        prompts=prompts or prompts_of(base, settings, records),
        max_length=longest,
        overlong=settings.overlong,
    )
    console.print(str(report), highlight=False)
    return examples
