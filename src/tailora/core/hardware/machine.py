"""The machine and the software, described in one record."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from tailora.core.hardware.devices import gpu_name
from tailora.core.hardware.memory import memory
from tailora.core.hardware.processor import cores, cpu_name, instruction_sets

PACKAGES = ("tailora", "torch", "transformers", "tokenizers", "safetensors", "numpy", "peft")


def describe() -> dict[str, Any]:
    """Return a description of the machine and the software for the record of a run; memory in bytes."""
    total, available = memory()
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "cpu": cpu_name(),
        "cores": cores(),
        "instruction_sets": list(instruction_sets()),
        "memory_total": total,
        "memory_available": available,
        "gpu": gpu_name(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
