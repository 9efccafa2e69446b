"""The base fingerprint: it identifies weights, independent of the file and the precision that store them. No torch.

SHA-256 over the sorted canonical tensor names, each with the tensor's shape and the SHA-256 of its values widened to
float32. Tied copies and buffers are left out, so that the fingerprint of a file equals that of the network loaded from
it. Hashing in two steps allows tensors to be hashed in parallel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailora.core.files import cache_folder, write_json
from tailora.models.provenance import source_fingerprint
from tailora.models.weights import StoredTensor, stored_tensors, weight_files

# Checkpoints of the headless network lack the prefix that the causal language model's state dict has.
_PREFIX_OF_HEADLESS = {
    "transformer.": ("wte.", "wpe.", "h.", "ln_f."),
    "model.": ("embed_tokens.", "layers.", "norm."),
}
# Causal masks and rotary tables that older checkpoints contain although they follow from the configuration.
_BUFFER = re.compile(r"(?:.*\.)?(?:attn|attention)\.(?:masked_)?bias|(?:.*\.)?inv_freq|(?:.*\.)?position_ids")
_HEADS = ("lm_head.weight", "embed_out.weight")
_CHUNK = 1 << 22  # values widened at a time: 16 MB of float32


def canonical_name(name: str) -> str:
    """The name of a stored tensor in the state dict of transformers' causal language model."""
    for prefix, starts in _PREFIX_OF_HEADLESS.items():
        if name.startswith(starts):
            return prefix + name
    return name


def fingerprint_tensors(tensors: Mapping[str, StoredTensor]) -> str:
    """The fingerprint of named tensors, in any order and under stored or canonical names; 64 hex digits."""
    kept = {
        canonical_name(name): tensor
        for name, tensor in tensors.items()
        if tensor.floating and not _BUFFER.fullmatch(name)
    }
    names = sorted(kept)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        digests = dict(zip(names, pool.map(lambda name: _value_digest(kept[name]), names), strict=True))
    tied = {head for head in _HEADS if head in kept and _has_twin(head, kept, digests)}
    lines = (f"{name} {list(kept[name].raw.shape)} {digests[name]}\n" for name in names if name not in tied)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fingerprint_folder(folder: Path) -> str:
    """The fingerprint of a model folder, cached by its files' paths, sizes, times and inode numbers.

    The time of a file's last status change detects a replaced file even where size and modification time are equal, as
    after `cp -p`, `rsync -t` and `tar`.

    A quantised folder has the fingerprint of the weights that were quantised, whose adapters it accepts.

    Raises:
        ModelError: the folder's weights cannot be read.
    """
    carried = source_fingerprint(folder)
    if carried is not None:
        return carried
    files = [[path.name, *_identity(path.stat())] for path in weight_files(folder)]
    place = str(folder.resolve())
    kept = cache_folder() / "fingerprints" / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"
    key: dict[str, Any] = {"version": 2, "folder": place, "files": files}
    known = _read_kept(kept)
    if all(known.get(name) == value for name, value in key.items()) and isinstance(known.get("fingerprint"), str):
        return str(known["fingerprint"])
    fingerprint = fingerprint_tensors(stored_tensors(folder))
    with contextlib.suppress(OSError):  # without a writable cache it is computed again at the next start
        write_json(kept, {**key, "fingerprint": fingerprint})
    return fingerprint


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino


def _read_kept(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # absent or damaged: computed again and overwritten
        return {}
    return kept if isinstance(kept, dict) else {}


def _has_twin(head: str, kept: Mapping[str, StoredTensor], digests: Mapping[str, str]) -> bool:
    shape = kept[head].raw.shape
    return any(digests[name] == digests[head] and kept[name].raw.shape == shape for name in kept if name not in _HEADS)


def _value_digest(tensor: StoredTensor) -> str:
    digest = hashlib.sha256()
    for chunk in _widened(tensor):
        digest.update(chunk.data)
    return digest.hexdigest()


def _widened(tensor: StoredTensor) -> Iterable[NDArray[Any]]:
    """The values as little-endian float32, in pieces. float64 is narrowed: no published base is stored so."""
    flat = tensor.raw.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        piece = flat[start : start + _CHUNK]
        if tensor.dtype == "BF16":
            yield piece.astype("<u4") << np.uint32(16)
        else:
            yield np.ascontiguousarray(piece, dtype="<f4")
