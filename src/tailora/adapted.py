"""A base model with an adapter on it: found, checked against each other, attached."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, changes_nothing
from tailora.errors import AdapterError, ModelError, SettingsError
from tailora.hardware import bf16_is_faster
from tailora.lora import inject, merging
from tailora.models.load import Base, load_base

log = logging.getLogger(__name__)
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, eq=False)
class Adapted:
    """A base model as it is to be used.

    Attributes:
        base: its network carries the adapter, beside its weights or merged into them.
        adapter: None for the bare base.
    """

    base: Base
    adapter: Adapter | None

    @property
    def meta(self) -> Mapping[str, Any]:
        """How it was trained: the adapter's own account, or that of the adapter merged into the base's folder."""
        if self.adapter is not None:
            return self.adapter.meta
        account = self.base.folder / "tailora.json"
        if not account.is_file():
            return {}
        try:
            meta = json.loads(account.read_text(encoding="utf-8"))["meta"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError("not an account of a merged model", where=account, mend="merge it again") from error
        return meta if isinstance(meta, dict) else {}


def load_adapted(
    adapter: Path | None,
    base: str | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    merged: bool = False,
    force: bool = False,
) -> Adapted:
    """Load a base model and put an adapter on it.

    Args:
        adapter: an adapter's folder or file, or a run directory that holds one; None leaves the base bare.
        base: name, path or hub id; None takes the one that the adapter names.
        dtype: of the base's weights; None keeps the stored one. Merging happens in it.
        device: where the network goes.
        merged: fold the adapter into the weights.
        force: accept an adapter that was trained on other weights than the base has.

    Raises:
        SettingsError: neither names a base.
        AdapterError: the adapter cannot be read, changes nothing, or does not belong to the base.
        ModelError: the base cannot be loaded.
    """
    found = None if adapter is None else formats.load(adapter_place(adapter))
    name = base or (found.base_name if found else None)
    if name is None:
        why = "the adapter does not name its base model" if found else "no base model named"
        raise SettingsError(why, where="base", mend="name it with --base")
    if found is not None and changes_nothing(found):
        raise AdapterError(
            "the adapter changes nothing: all its updates are zero", where=adapter, mend="train it again"
        )
    loaded = load_base(name, dtype=dtype, device=device)
    if found is not None:
        _check_same_base(found, loaded, str(adapter), force)
        inject.attach(loaded.model, found.config, found, model_type=loaded.model_type)
        if merged:
            merging.merge(loaded.model)
        loaded.model.to(device).eval()
    return Adapted(loaded, found)


def adapter_place(path: Path) -> Path:
    """The adapter that a path means: itself, or the `adapter` folder of a run directory."""
    return path / "adapter" if (path / "adapter").is_dir() else path


def choose_device(device: str) -> str:
    """The device that "auto" means here: a GPU if PyTorch sees one."""
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(precision: Precision, device: str) -> torch.dtype:
    """The type to compute in: as told, or bf16 where a probe finds it faster."""
    fast = precision == "bf16" or (precision == "auto" and bf16_is_faster(device))
    return torch.bfloat16 if fast else torch.float32


def _check_same_base(adapter: Adapter, base: Base, place: str, force: bool) -> None:
    if adapter.base_fingerprint is None:
        log.warning("%s does not say which weights it was trained on; only shapes are checked", place)
    elif adapter.base_fingerprint != base.fingerprint:
        what = f"it was trained on other weights than those of {base.name}"
        if not force:
            raise AdapterError(
                what, where=place, mend=f"name its own base ({adapter.base_name}), or insist with --force"
            )
        log.warning("%s: %s; used all the same", place, what)
