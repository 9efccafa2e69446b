"""A base model in PyTorch with one adapter attached or merged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, changes_nothing, require_base
from tailora.adapters.insert import AnyAdapter, Insert
from tailora.core.errors import AdapterError, SettingsError
from tailora.engine.backends.torch import TorchBackend
from tailora.engine.engine import Engine
from tailora.inference.running import Running
from tailora.inserts import attachment as inserts
from tailora.lora import inject, merging
from tailora.models.load import Base, load_base

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The type of weights and products, by the name of the precision."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """A loaded base model.

    Attributes:
        base: with the adapter attached to its network or merged into its weights.
        adapter: None for the bare base.
    """

    base: Base
    adapter: Adapter | None


def load_adapted(
    adapter: Path | Adapter | None,
    base: str | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    merged: bool = False,
    force: bool = False,
) -> Adapted:
    """Load a base model and attach an adapter, or merge it.

    Args:
        adapter: an adapter, its folder or file, or a run directory with one; None loads the base alone.
        base: name, path or hub id; None takes the one that the adapter names.
        dtype: of the base's weights; None keeps the stored one. Merging happens in it.
        device: of the network.
        merged: merge the adapter into the weights.
        force: accept an adapter that was trained on other weights than the base has.

    Raises:
        SettingsError: neither names a base.
        AdapterError: the adapter cannot be read, changes nothing, or does not belong to the base.
        ModelError: the base cannot be loaded.
    """
    place = str(adapter) if isinstance(adapter, Path) else None
    value = formats.load(formats.adapter_place(adapter)) if isinstance(adapter, Path) else adapter
    name = base or (value.base_name if value else None)
    if name is None:
        why = "the adapter does not name its base model" if value else "no base model named"
        raise SettingsError(why, where="base", hint="name it with --base")
    if value is not None and changes_nothing(value):
        raise AdapterError("the adapter changes nothing: all its updates are zero", where=place, hint="train it again")
    loaded = load_base(name, dtype=dtype, device=device)
    if value is not None:
        require_base(
            value, fingerprint=loaded.fingerprint, base_name=loaded.name, place=place or "the adapter", force=force
        )
        apply_adapter(loaded, value, merged=merged)
    return Adapted(loaded, value)


def apply_adapter(base: Base, adapter: AnyAdapter, *, merged: bool) -> None:
    """Attach an adapter to a base, or merge it into its weights, in place.

    Raises:
        AdapterError: the adapter does not fit the network.
    """
    device = base.model.get_input_embeddings().weight.device
    if isinstance(adapter, Insert):
        assert not merged, "no weights of the base can express it"
        inserts.attach(base.model, adapter, model_type=base.model_type)
    else:
        inject.attach(base.model, adapter.config, adapter, model_type=base.model_type)
        if merged:
            merging.merge(base.model)
    base.model.to(device).eval()


def running_on(base: Base) -> Running:
    """Start an engine on a loaded network, with whatever is attached to it."""
    place = base.model.get_input_embeddings().weight
    precision = next((name for name, dtype in DTYPES.items() if dtype == place.dtype), str(place.dtype))
    engine = Engine(TorchBackend(base), end=base.tokenizer.end_ids)
    return Running(engine, base.tokenizer, "torch", precision, place.device.type, built_in=True)
