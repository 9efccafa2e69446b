"""The state of a run between two updates, and its file.

The file is a safetensors file. Its metadata contains as JSON what is not a tensor, and a SHA-256 of everything, so that
a file with a damaged byte in any place is refused.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tailora.core.errors import unreadable
from tailora.core.files import atomic_path

VERSION = 2
"""Version of the file format."""
_STATE, _DIGEST = "state", "sha256"
_PARTS = ("learning", "best", "average", "generators")
_OTHER_VERSION = "is from another version of Tailora"
_IS_LOCKED_BY_TENSORS = sys.platform == "win32"
"""Whether a file cannot be deleted or replaced while tensors that were read from it, which are views of it, exist."""


@dataclass
class RunState:
    """Everything that the rest of a run depends on, besides its settings and data.

    Attributes:
        step: number of updates so far.
        progress: counts, losses and warnings so far; see `loop.Outcome`.
        fruitless: number of validations in a row without a better loss.
        learning: the learning parameters by name.
        best: the learning parameters at the best validation; None without validation.
        average: their mean over the last updates so far; None before the first of these.
        optimizer: the optimizer's tensors by parameter number and name.
        generators: states of the random number generators, by name.
        metrics_bytes: length of metrics.jsonl in bytes.
        metrics_digest: SHA-256 of these bytes.
    """

    step: int
    progress: dict[str, Any]
    fruitless: int
    learning: dict[str, Tensor]
    best: dict[str, Tensor] | None
    optimizer: dict[int, dict[str, Tensor]]
    generators: dict[str, Tensor]
    average: dict[str, Tensor] | None = None
    metrics_bytes: int = 0
    metrics_digest: str = ""


class UnusableStateError(Exception):
    """A file is not a whole state of this version; the message is a clause whose subject is the file."""


def write(path: Path, state: RunState, job: Mapping[str, Any]) -> None:
    """Write a state.

    Args:
        path: the file.
        state: the state.
        job: what the run is, as JSON values; see `resume.Job`.

    Raises:
        OSError: for example, the disk is full; a file that was at the path stays.
    """
    tensors = {f"{part}.{name}": tensor for part in _PARTS for name, tensor in (getattr(state, part) or {}).items()}
    for number, values in state.optimizer.items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    rest = json.dumps(
        {
            "version": VERSION,
            "job": job,
            "step": state.step,
            "progress": state.progress,
            "fruitless": state.fruitless,
            "metrics_bytes": state.metrics_bytes,
            "metrics_digest": state.metrics_digest,
        }
    )
    with atomic_path(path) as temporary:
        save_file(whole, temporary, {_STATE: rest, _DIGEST: _digest(rest, whole)})


def read(path: Path) -> tuple[dict[str, Any], RunState]:
    """Return the job and the state in a file.

    Raises:
        UnusableStateError: the file cannot be read, is damaged, or is from another version.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _IS_LOCKED_BY_TENSORS:
                tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    except OSError as error:
        raise UnusableStateError(unreadable(error)) from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UnusableStateError("is damaged") from error
    if _DIGEST not in metadata and _STATE in metadata:
        raise UnusableStateError(f"is damaged, or {_OTHER_VERSION}")
    rest = metadata.get(_STATE, "")
    if metadata.get(_DIGEST) != _digest(rest, tensors):
        raise UnusableStateError("is damaged")
    content = json.loads(rest)
    if content["version"] != VERSION:
        raise UnusableStateError(_OTHER_VERSION)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, own = name.partition(".")
        if part == "optimizer":
            number, _, own = own.partition(".")
            optimizer.setdefault(int(number), {})[own] = tensor
        else:
            parts[part][own] = tensor
    return content["job"], RunState(
        step=content["step"],
        progress=content["progress"],
        fruitless=content["fruitless"],
        learning=parts["learning"],
        best=parts["best"] or None,
        average=parts["average"] or None,
        optimizer=optimizer,
        generators=parts["generators"],
        metrics_bytes=content["metrics_bytes"],
        metrics_digest=content["metrics_digest"],
    )


def _digest(rest: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(rest.encode("utf-8", "surrogatepass"))
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode("utf-8", "surrogatepass"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
