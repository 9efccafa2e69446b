"""The adapters that were merged into a model: how its folder records them, and how they are located again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter
from tailora.adapters.arithmetic import combined
from tailora.core.errors import AdapterError, SettingsError


class MergedAdapter(NamedTuple):
    """An adapter that is merged into a model: its path, its values, and the weight of its update."""

    place: Path
    adapter: Adapter
    weight: float = 1.0


def entries(adapters: Sequence[MergedAdapter], model: Path) -> list[dict[str, Any]]:
    """Return the record of the adapters that were merged into a model, as JSON values.

    Both paths are valid from any working directory: an absolute one, and one relative to the model's folder, which
    stays valid where both were moved together. The hash of the content detects another adapter at the same path.
    """
    return [
        {
            "path": place.absolute().as_posix(),
            "beside": _relative(place, model),
            "hash": adapter.content_hash,
            "weight": weight,
        }
        for place, adapter, weight in adapters
    ]


def find(recorded: Sequence[Mapping[str, Any]], svd: int | None, model: Path) -> Path | Adapter | None:
    """Return the adapter that a merged model contains: its path, or the sum of several; None if there is none.

    Args:
        recorded: what `entries` made.
        svd: the rank that the sum was cut to; None if it was not.
        model: the folder of the merged model.

    Raises:
        SettingsError: an adapter is missing, or another one is at its path.
        KeyError, TypeError: the entries are not those of `entries`.
    """
    adapters = [_locate(entry, model) for entry in recorded]
    if not adapters:
        return None
    if len(adapters) == 1 and adapters[0].weight == 1 and svd is None:
        return adapters[0].place
    values, weights = [merged.adapter for merged in adapters], [merged.weight for merged in adapters]
    return combined(values, weights) if svd is None else combined(values, weights, how="svd", rank=svd)


def _locate(entry: Mapping[str, Any], model: Path) -> MergedAdapter:
    state = "does not exist"
    for place in (Path(entry["path"]), model / entry["beside"]):
        if not formats.adapter_place(place).exists():
            continue
        try:
            adapter = formats.load(formats.adapter_place(place))
        except AdapterError:
            state = "cannot be read"
            continue
        if adapter.content_hash == entry["hash"]:
            return MergedAdapter(place, adapter, float(entry["weight"]))
        state = "is not the one that was merged"
    what = f"the adapter {entry['path']} {state}"
    hint = "name it with --adapter, or compare with the base alone by --base-only"
    raise SettingsError(what, where=model, hint=hint)


def _relative(place: Path, model: Path) -> str:
    try:
        return Path(os.path.relpath(place, model)).as_posix()
    except ValueError:  # on another drive of Windows
        return place.absolute().as_posix()
