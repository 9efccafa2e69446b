"""Data sources that name a data set of the Hugging Face hub, and which split they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tailora.core.errors import DataError, MissingExtraError
from tailora.data.hub_names import HubName
from tailora.data.split_names import DATA_SUFFIXES, SPLIT_STEMS
from tailora.data.text_files import base_suffix

if TYPE_CHECKING:
    from tailora.data.hub_data_sets import HubDataSet


def open_hub(name: HubName) -> HubDataSet:
    """Return a data set of the hub.

    Raises:
        MissingExtraError: the hub's library is not installed.
        DataError: see `hub_data_sets.open_data_set`.
        OfflineError: see `hub_data_sets.open_data_set`.
    """
    try:
        from tailora.data.hub_data_sets import open_data_set
    except ImportError as error:
        what = "there is no such file or folder, and the package datasets, which reads data sets of the hub, is missing"
        hint = "check the path, or pip install 'tailora[datasets]'"
        raise MissingExtraError(what, where=name.repository, hint=hint) from error
    return open_data_set(name)


def hub_name(source: str | Path) -> HubName | None:
    """Return the parts of a source that names a data set of the hub; None if it is a path, or a name of ours."""
    if not isinstance(source, str) or Path(source).exists():
        return None
    name = HubName.parse(source)
    looks_like_file = name is not None and name.is_plain and base_suffix(Path(source)) in DATA_SUFFIXES
    return None if looks_like_file else name


def usual_splits(data: HubDataSet) -> dict[str, str]:
    """Return the hub's name of each of our splits that a data set has."""
    known = {name.casefold(): name for name in data.splits}
    usual = {split: [known[stem] for stem in stems if stem in known] for split, stems in SPLIT_STEMS.items()}
    return {split: names[0] for split, names in usual.items() if names}


def named_split(data: HubDataSet, split: str | None) -> str:
    """Return the hub's name of the split that the name of a data set or one of our splits means.

    Raises:
        DataError: there is no such split, or none is named.
    """
    own, splits = data.name, usual_splits(data)
    every = ", ".join(data.splits)
    if own.split is not None:
        if split is not None:
            what = f"names the split {own.split} and has no split {split!r}"
            raise DataError(what, where=own.repository, hint="leave the split out")
        if own.split not in data.splits:
            what, hint = f"the data set has no split {own.split!r}", f"its splits are {every}"
            raise DataError(what, where=own.repository, hint=hint)
        return own.split
    if split in splits:
        return splits[split]
    another = f"name one of its splits after a #, for example {own.repository}#{data.splits[0]} (it has {every})"
    if split is not None:
        raise DataError(f"the data set has no split {split!r}", where=own.repository, hint=another)
    hint = f"choose with --split: {', '.join(splits)}" if splits else another
    raise DataError("is a data set with splits", where=own.repository, hint=hint)
