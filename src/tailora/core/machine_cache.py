"""Results that belong to this machine, kept between runs: what was measured on it, and what was checked on it.

A result is found again by its key: everything that it depends on, beside the machine and the packages, which are part
of every key. Each key has a file of its own, so that processes do not disturb each other. A file that cannot be read,
used or written costs a second measurement and a warning in the log.
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
    """Return the result that is kept under a key, as JSON holds it; None if there is none that can be used.

    Args:
        kind: what was measured; the name of a folder.
        key: what the result depends on.
        usable: whether a value that was read from the file has the form of such a result.
    """
    whole = _whole(key)
    path = _place(kind, whole)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(kept, dict) or kept.get("key") != whole or not usable(kept.get("result")):
            raise ValueError("it does not hold what was asked for")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: this file of the cache cannot be used (%s); it is measured again", path, error)
        return None
    return kept["result"]


def keep(kind: str, key: Mapping[str, Any], result: Any) -> None:
    """Keep a result that JSON can hold."""
    whole = _whole(key)
    path = _place(kind, whole)
    try:
        write_json(path, {"key": whole, "result": result})
    except OSError as error:  # a cache folder that cannot be written is no reason not to go on
        log.warning("%s: the result cannot be kept (%s)", path, error)


def are_times(value: Any, names: Collection[str]) -> bool:
    """Whether a value read from JSON maps some of the names to positive finite numbers."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(name in names for name in value)
        and all(isinstance(each, int | float) and 0 < each < math.inf for each in value.values())
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
