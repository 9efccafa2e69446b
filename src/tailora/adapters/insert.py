"""What methods other than LoRA insert into a network, as a value: bottleneck adapters or a prefix. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tailora.adapters.adapter import Adapter, Floats
from tailora.adapters.draft_table import DraftTable

InsertKind = Literal["adapter-h", "adapter-l", "prefix"]
"""The name of the method that trains the insert."""

DESCRIPTIONS: dict[InsertKind, str] = {
    "adapter-h": "Houlsby's adapters",
    "adapter-l": "Lin's adapters",
    "prefix": "a prefix of keys and values",
}
"""Names for messages."""

PREFIX = "prompt_embeddings"
"""The name of a prefix's only tensor, which is PEFT's."""


@dataclass(frozen=True, eq=False)
class Insert:
    """Trained parts that a network computes in addition to its own layers, and that cannot be merged into its weights.

    Attributes:
        kind: the method that trained it.
        tensors: float32. Those of adapters have the names of the parameters in the network
            ("transformer.h.0.mlp.c_proj.adapter_h.up.weight"). A prefix is one tensor under `PREFIX`,
            [virtual tokens, 2 · layers, heads, width], in which layer n has its keys at 2n and its values at 2n + 1.
        base_fingerprint: SHA-256 of the base's weights; None if another program made it.
        base_name: the name of the base, by which it is found where the user names none.
        meta: the rest of `tailora.json`, as that of `Adapter`.
        unknown_base_reported: whether a warning that the base is unknown has been logged.
        drafts: see `Adapter`.
    """

    kind: InsertKind
    tensors: Mapping[str, Floats]
    base_fingerprint: str | None = None
    base_name: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    unknown_base_reported: bool = False
    drafts: DraftTable | None = None

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything that affects a result: kind, names and values."""
        digest = hashlib.sha256(f"{self.kind}\n".encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.shape}\n".encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    @property
    def size(self) -> int:
        """The width of the bottleneck, or the number of virtual tokens."""
        if self.kind == "prefix":
            return len(self.tensors[PREFIX])
        return next((len(tensor) for name, tensor in self.tensors.items() if name.endswith("down.weight")), 0)

    @property
    def parameters(self) -> int:
        """Number of values."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def changes_nothing(self) -> bool:
        """Whether it has no effect on any base: all that the adapters add is zero. A prefix always has one."""
        if self.kind == "prefix":
            return False
        added = [tensor for name, tensor in self.tensors.items() if ".up." in name]
        return not any(tensor.any() for tensor in added)

    @property
    def description(self) -> str:
        """What it is, for messages."""
        return DESCRIPTIONS[self.kind]


AnyAdapter = Adapter | Insert
"""What a run directory's `adapter/` can contain."""
