"""Names of splits, and the suffixes of data files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

SplitName = Literal["train", "valid", "test"]

SPLIT_STEMS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "trainset", "training"),
    "valid": ("valid", "dev", "devset", "validation", "val"),
    "test": ("test", "testset_w_refs", "testset"),
}
"""Names under which files and data sets have each split, the most usual first."""

DATA_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".json", ".xml", ".txt", ".parquet", ".arrow", ".feather")
