"""Which adapters a merged model was made of, as its folder keeps it, and how to find them again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter
from tailora.adapters.arithmetic import combined
from tailora.core.errors import AdapterError, SettingsError


class Source(NamedTuple):
    """An adapter that is merged into a model: where it lies, its values, and what its update is multiplied by."""

    place: Path
    adapter: Adapter
    weight: float = 1.0


def entries(sources: Sequence[Source], model: Path) -> list[dict[str, Any]]:
    """What the folder of a merged model keeps of its adapters.

    The paths hold from any working directory: an absolute one, and one from the model's folder, which still holds where
    both were moved together. The content's hash tells the adapter from another one that has taken its place.
    """
    return [
        {
            "path": place.absolute().as_posix(),
            "beside": _relative(place, model),
            "hash": adapter.content_hash,
            "weight": weight,
        }
        for place, adapter, weight in sources
    ]


def find(kept: Sequence[Mapping[str, Any]], svd: int | None, model: Path) -> Path | Adapter | None:
    """The adapter whose update a merged model carries: its place, or the sum of several; None if there is none.

    Raises:
        SettingsError: an adapter is not where it was, or is another one.
        KeyError, TypeError: the entries are not those of `entries`.
    """
    sources = [_found(entry, model) for entry in kept]
    if not sources:
        return None
    if len(sources) == 1 and sources[0].weight == 1 and svd is None:
        return sources[0].place
    how, weights = "concat" if svd is None else "svd", [source.weight for source in sources]
    return combined([source.adapter for source in sources], weights, how=how, rank=svd)  # type: ignore[arg-type]


def _found(entry: Mapping[str, Any], model: Path) -> Source:
    state = "is not there"
    for place in (Path(entry["path"]), model / entry["beside"]):
        if not formats.adapter_place(place).exists():
            continue
        try:
            adapter = formats.load(formats.adapter_place(place))
        except AdapterError:
            state = "cannot be read"
            continue
        if adapter.content_hash == entry["hash"]:
            return Source(place, adapter, float(entry["weight"]))
        state = "is another one than was merged"
    what = f"the adapter {entry['path']} {state}"
    hint = "name it with --adapter, or compare with the base alone by --base-only"
    raise SettingsError(what, where=model, hint=hint)


def _relative(place: Path, model: Path) -> str:
    try:
        return Path(os.path.relpath(place, model)).as_posix()
    except ValueError:  # on another drive of Windows
        return place.absolute().as_posix()
