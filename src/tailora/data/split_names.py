"""Names of splits, and the suffixes of data files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from tailora.data.text_files import PACKED

SplitName = Literal["train", "valid", "test"]

SPLIT_STEMS: Mapping[SplitName, tuple[str, ...]] = {
    "train": ("train", "trainset", "training"),
    "valid": ("valid", "dev", "devset", "validation", "val", "devel"),
    "test": ("test", "testset_w_refs", "testset"),
}
"""Names under which files and data sets have each split, the most usual first."""

DATA_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".json", ".xml", ".txt", ".parquet", ".arrow", ".feather")


def split_in_name(name: str) -> SplitName | None:
    """Return the only split that the name of a data file has as a word: "train" for `dart-v1.1.1-full-train.json`."""
    lower = name.lower()
    plain = next((lower.removesuffix(mark) for mark in PACKED if lower.endswith(mark)), lower)
    if not plain.endswith(DATA_SUFFIXES):
        return None
    words = set(re.split(r"[^a-z]+", plain))
    named = [split for split, stems in SPLIT_STEMS.items() if words.intersection(stems)]
    return named[0] if len(named) == 1 else None
