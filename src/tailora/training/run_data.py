"""The records, prompts and examples of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tailora.core.errors import DataError
from tailora.data import records as record_files
from tailora.data.examples import Example, build_examples
from tailora.data.prompts import PromptFormat
from tailora.data.values import Record
from tailora.models.load import Base
from tailora.training.run_folder import trained_data
from tailora.training.settings import TrainSettings


def read_records(settings: TrainSettings) -> tuple[list[Record], list[Record]]:
    """Return the records to train on, and those to validate on, which may be empty.

    Raises:
        DataError: the data cannot be read, or is a run directory.
    """
    for place in (settings.data, settings.valid):
        if place is not None and (data := trained_data(Path(place))) is not None:
            hint = f"give the data that it was trained on ({data})"
            raise DataError("is a run directory, which contains no records", where=place, hint=hint)
    names = record_files.splits(settings.data)
    train = settings.load(settings.data, "train" if names else None).records
    valid: Sequence[Record] = ()
    if settings.valid is not None:
        split = "valid" if record_files.splits(settings.valid) else None
        valid = settings.load(settings.valid, split).records
    elif "valid" in names:
        valid = settings.load(settings.data, "valid").records
    return list(train[: settings.limit]), list(valid[: settings.valid_limit])


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
    positions = getattr(base.model.config, "max_position_embeddings", None) or settings.max_length + settings.size
    if settings.method == "prefix":
        positions -= settings.prefix_tokens  # which have positions as well
    examples, report = build_examples(
        records,
        base.tokenizer,
        prompts=prompts or prompts_of(base, settings, records),
        max_length=min(settings.max_length, positions),
        overlong=settings.overlong,
    )
    console.print(str(report), highlight=False)
    return examples
