"""Draft tables of adapters and models that exist: made from records with texts, and written beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailora.adapters import formats
from tailora.adapters.formats import draft_file
from tailora.adapters.formats.peft_files import CONFIG_FILE
from tailora.adapters.ngram_counts import draft_table
from tailora.core.errors import AdapterError
from tailora.data import records as record_files
from tailora.data.examples import build_examples
from tailora.data.model_files import CONFIG as MODEL_CONFIG
from tailora.data.reading import ReadingSettings
from tailora.inference.setup import Setup, resolve_models


def write_draft_table(
    place: Path, data: str, reading: ReadingSettings, *, base: str | None = None, force: bool = False
) -> dict[str, Any]:
    """Count the n-grams of texts, and write them into the folder of the adapter or model that writes such texts.

    Args:
        place: the folder of an adapter or of a model, or a run directory.
        data: records with texts: a file, a folder of splits, whose split `train` is used, or the name of a data set.
        reading: how the data is read.
        base: the base model of an adapter; None for the one that it names.
        force: accept an adapter that was trained on other weights.

    Returns:
        The path of the table, its bytes, the number of contexts and of texts.

    Raises:
        AdapterError: the place is not a folder of an adapter or of a model.
        UserError: the adapter, its base or the data cannot be read.
    """
    folder, setup, name = _setup(place, base, force)
    split = "train" if "train" in record_files.splits(data) else None
    records = reading.load(data, split, trained=setup.reading).records
    examples, _ = build_examples(records, setup.tokenizer, prompts=setup.prompts(name))
    pairs = [(example.prompt, example.completion) for example in examples]
    table = draft_table(pairs, setup.tokenizer.vocabulary_fingerprint)
    draft_file.write(table, folder)
    path = folder / draft_file.FILE
    return {"output": str(path), "bytes": path.stat().st_size, "contexts": len(table.keys), "texts": len(pairs)}


def _setup(place: Path, base: str | None, force: bool) -> tuple[Path, Setup, str | None]:
    """Return the folder for the table, base and adapter, and the adapter's name, which is None for a model."""
    folder = next((place / name for name in ("adapter", "model") if (place / name).is_dir()), place)
    if (folder / CONFIG_FILE).is_file() or (folder.is_dir() and formats.insert_kind(folder)):
        return folder, resolve_models(base, {"adapter": folder}, force=force), "adapter"
    if (folder / MODEL_CONFIG).is_file():
        return folder, resolve_models(str(folder), {}), None
    hint = "name a folder, or a run directory; `tailora convert --to peft` makes a folder of a file"
    raise AdapterError("is not the folder of an adapter or of a model", where=place, hint=hint)
