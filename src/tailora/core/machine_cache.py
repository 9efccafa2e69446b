"""A cache of results that are valid on this machine only: measurements and self-checks.

The key of a result is everything that it depends on; the machine and the package versions are part of every key. Each
key has its own file, so that processes do not disturb each other. If a file cannot be read, used or written, a warning
is logged and the result is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tailora.core.files import cache_folder, write_json
from tailora.core.hardware.processor import cores, cpu_name, instruction_sets

log = logging.getLogger(__name__)

_PACKAGES = ("tailora", "openvino", "torch", "transformers", "numpy")


def recall(kind: str, key: Mapping[str, Any], usable: Callable[[Any], bool]) -> Any:
    """Return the cached result of a key, as a JSON value; None if there is none that can be used.

    Args:
        kind: the kind of result, which is the name of its folder.
        key: what the result depends on.
        usable: returns whether a value read from the file has the form of such a result.
    """
    whole = _whole(key)
    path = _place(kind, whole)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(kept, dict) or kept.get("key") != whole or not usable(kept.get("result")):
            raise ValueError("it contains another result")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: this cache file cannot be used (%s); the result is computed again", path, error)
        return None
    return kept["result"]


def keep(kind: str, key: Mapping[str, Any], result: Any) -> None:
    """Store a result, which must be a JSON value."""
    whole = _whole(key)
    path = _place(kind, whole)
    try:
        write_json(path, {"key": whole, "result": result})
    except OSError as error:  # the cache is optional
        log.warning("%s: the result cannot be cached (%s)", path, error)


def are_times(value: Any, names: Collection[str]) -> bool:
    """Whether a value read from JSON maps some of the names to positive finite numbers."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(name in names for name in value)
        and all(isinstance(time, int | float) and 0 < time < math.inf for time in value.values())
    )


def _whole(key: Mapping[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(json.dumps({**key, **_machine()}))
    return whole


def _machine() -> Mapping[str, Any]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"cpu": cpu_name(), "cores": cores(), "instruction_sets": instruction_sets(), "packages": versions}


def _place(kind: str, key: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / kind / f"{digest[:32]}.json"
