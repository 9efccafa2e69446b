"""Results that belong to this machine, kept between runs: what was measured on it, and what was checked on it.

A result is found again by its key: everything that it depends on, beside the machine and the packages, which are part
of every key. A cache that cannot be read or written costs a second measurement and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailora.files import cache_folder, write_json
from tailora.hardware import cores, cpu_name, instruction_sets

_PACKAGES = ("tailora", "openvino", "torch", "transformers", "numpy")


def recall(kind: str, key: Mapping[str, Any]) -> Any:
    """The kept result of a kind under a key, as JSON gives it back; None where there is none."""
    whole = _whole(key)
    try:
        kept = json.loads(_place(kind, whole).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or damaged
        return None
    return kept.get("result") if isinstance(kept, dict) and kept.get("key") == whole else None


def keep(kind: str, key: Mapping[str, Any], result: Any) -> None:
    """Keep a result that JSON can hold."""
    whole = _whole(key)
    with contextlib.suppress(OSError):
        write_json(_place(kind, whole), {"key": whole, "result": result})


def _whole(key: Mapping[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(json.dumps({**key, **_machine()}))
    return whole


@functools.cache
def _machine() -> Mapping[str, Any]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"cpu": cpu_name(), "cores": cores(), "instruction_sets": instruction_sets(), "packages": versions}


def _place(kind: str, key: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / kind / f"{digest[:32]}.json"
