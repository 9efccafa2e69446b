"""Folders of inserts, with `tailora.json`: a prefix as PEFT has it, and adapters as `adapter.safetensors`.

PEFT has no equivalent of bottleneck adapters. A prefix that PEFT wrote has no `tailora.json`: its base is unknown.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

import tailora
from tailora.adapters.formats import draft_file, model_card, prefix
from tailora.adapters.formats.peft_files import CONFIG_FILE, TAILORA_FILE, read_file
from tailora.adapters.formats.tensors import read_safetensors, write_safetensors
from tailora.adapters.insert import DESCRIPTIONS, Insert, InsertKind
from tailora.core.errors import AdapterError
from tailora.core.files import atomic_folder, read_json_object, write_json, write_text

WEIGHTS_FILE = "adapter.safetensors"

logger = logging.getLogger(__name__)


class InsertFile(BaseModel):
    """`tailora.json` of an insert."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: Literal[1]
    method: InsertKind
    base_fingerprint: str | None
    base_name: str | None
    content_hash: str
    meta: dict[str, Any]


def kind_of_folder(folder: Path) -> InsertKind | None:
    """Return the kind of insert that a folder contains; None for any other folder.

    Raises:
        AdapterError: `tailora.json` or `adapter_config.json` is not JSON.
    """
    hint = "restore the file, or train again"
    settings: Mapping[str, Any] = read_json_object(folder / CONFIG_FILE, AdapterError, hint=hint, optional=True)
    if settings:
        return "prefix" if settings.get("peft_type") == "PREFIX_TUNING" else None
    record: Mapping[str, Any] = read_json_object(folder / TAILORA_FILE, AdapterError, hint=hint, optional=True)
    method = record.get("method")
    return next((kind for kind in DESCRIPTIONS if kind == method), None)


def save(insert: Insert, folder: Path) -> None:
    """Write an insert's folder, whole or not at all; an existing folder of that name is replaced.

    Raises:
        AdapterError: it contains values that are not finite.
    """
    wrong = [name for name, tensor in insert.tensors.items() if not np.isfinite(tensor).all()]
    if wrong:
        raise AdapterError(f"{wrong[0]} contains values that are not finite", where=folder)
    with atomic_folder(folder) as temporary:
        if insert.kind == "prefix":
            prefix.write(insert, temporary)
        else:
            write_safetensors(temporary / WEIGHTS_FILE, dict(insert.tensors))
        record = {
            "format": 1,
            "tailora": tailora.__version__,
            "method": insert.kind,
            "size": insert.size,
            "base_fingerprint": insert.base_fingerprint,
            "base_name": insert.base_name,
            "content_hash": insert.content_hash,
            "meta": dict(insert.meta),
        }
        write_json(temporary / TAILORA_FILE, record)
        write_text(temporary / model_card.FILE, model_card.model_card(insert))
        if insert.drafts is not None:
            draft_file.write(insert.drafts, temporary)


def load(folder: Path) -> Insert:
    """Read an insert's folder.

    Raises:
        AdapterError: it is damaged, or its files are not from the same save.
    """
    stored = prefix.read(folder) if kind_of_folder(folder) == "prefix" else None
    if stored is not None and not (folder / TAILORA_FILE).is_file():
        logger.warning("%s was not written by Tailora: its base is unknown, so only shapes are checked", folder)
        return replace(stored, drafts=draft_file.read(folder))
    record = read_file(InsertFile, folder / TAILORA_FILE)
    if stored is None:
        tensors = {name: tensor.astype(np.float32) for name, tensor in read_safetensors(folder / WEIGHTS_FILE).items()}
    else:
        tensors = dict(stored.tensors)
    drafts = draft_file.read(folder)
    insert = Insert(record.method, tensors, record.base_fingerprint, record.base_name, record.meta, drafts=drafts)
    if insert.content_hash != record.content_hash:
        what = "the folder's tensors are not those that it was written with"
        raise AdapterError(what, where=folder / TAILORA_FILE, hint="restore the folder, or train again")
    return insert
