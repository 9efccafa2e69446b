"""Draft tables in files: safetensors of whole numbers, under a name that no program takes for weights."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tailora.adapters.draft_table import DraftTable
from tailora.core.errors import AdapterError
from tailora.core.files import atomic_path

FILE = "tailora.drafts"
_FORMAT = "1"
_LARGEST = 8 * 2**20  # bytes; a larger file is not such a table
_TYPES = {"keys": "uint32", "chances": "uint8", "words": "uint32", "factors": "int8"}

log = logging.getLogger(__name__)


def write(table: DraftTable, folder: Path) -> None:
    """Write a table into a folder, with tokens in 16 bits if they fit."""
    tokens = table.tokens.astype(np.uint16 if table.largest < 2**16 else np.uint32)
    arrays = {**{name: getattr(table, name) for name in _TYPES}, "tokens": tokens}
    with atomic_path(folder / FILE) as temporary:
        save_file(arrays, temporary, metadata={"format": _FORMAT, "vocabulary": table.vocabulary})


def read(folder: Path) -> DraftTable | None:
    """Read the table of a folder; None if there is none.

    A table that cannot be read makes no text wrong, so that it is reported as a warning, and None is returned.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return _read(path)
    except AdapterError as error:
        log.warning("%s", error)
        return None


def _read(path: Path) -> DraftTable:
    hint = "make it again with `tailora draft`, or delete it; texts are written without it, more slowly"
    if path.stat().st_size > _LARGEST:
        raise AdapterError("is too large for a table of drafts", where=path, hint=hint)
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise AdapterError(f"is not a complete table of drafts: {error}", where=path, hint=hint) from error
    if metadata.get("format") != _FORMAT:
        raise AdapterError("is a table of drafts of another version of Tailora", where=path, hint=hint)
    tokens = arrays.pop("tokens", np.zeros(0, np.float32))
    if {name: array.dtype.name for name, array in arrays.items()} != _TYPES or tokens.dtype.kind != "u":
        raise AdapterError("does not have the arrays of a table of drafts", where=path, hint=hint)
    table = DraftTable(**arrays, tokens=tokens.astype(np.uint32), vocabulary=metadata.get("vocabulary", ""))
    if not _is_consistent(table):
        raise AdapterError("is damaged: its arrays do not fit together", where=path, hint=hint)
    return table


def _is_consistent(table: DraftTable) -> bool:
    shapes = (
        table.keys.ndim == table.words.ndim == 1
        and table.tokens.ndim == 2
        and table.tokens.shape == table.chances.shape
        and len(table.tokens) == len(table.keys)
        and table.factors.shape == (len(table.words), 3)
    )
    return shapes and bool((np.diff(table.keys.astype(np.int64)) > 0).all())
