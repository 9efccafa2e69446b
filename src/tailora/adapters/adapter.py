"""An adapter as a value: its tensors, its settings and the base it was trained on. No torch, no model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tailora.adapters.config import LoraConfig
from tailora.adapters.draft_table import DraftTable
from tailora.core.errors import AdapterError

log = logging.getLogger(__name__)
Floats = NDArray[np.float32]
"""The type of an adapter's tensors."""
LayerKind = Literal["linear", "gpt2_conv1d", "embedding", "conv"]


@dataclass(frozen=True, eq=False)
class LowRank:
    """One pair of factors that adds `scale · B A x` to some or all outputs of a layer.

    Attributes:
        a: float32 [rank, in]; for an embedding [rank, entries]; for a convolution [rank, in/groups, *kernel].
        b: float32 [rows, rank]; for a convolution [rows, rank, 1, …]. rows is the whole output unless `rows` is set.
        scale: the factor of the update: alpha/rank, or alpha/√rank where it is rank-stabilised.
        rows: the half-open range of outputs that B writes, where the layer is a fused projection that is adapted
            slice by slice; None means all outputs.
    """

    a: Floats
    b: Floats
    scale: float
    rows: tuple[int, int] | None = None

    @property
    def rank(self) -> int:
        """The inner dimension of the update."""
        return int(self.a.shape[0])


@dataclass(frozen=True, eq=False)
class LayerAdapter:
    """What an adapter does to one layer.

    Attributes:
        kind: how the base stores the layer; `gpt2_conv1d` keeps its weight as [in, out].
        branches: one pair of factors, or one pair per adapted slice of a fused projection.
        magnitude: DoRA's learnt magnitude, float32 [out]; None without DoRA.
        out: the number of the layer's outputs, which slices alone do not determine; None where it is unknown.
    """

    kind: LayerKind
    branches: tuple[LowRank, ...]
    magnitude: Floats | None = None
    out: int | None = None

    @property
    def out_features(self) -> int:
        """The number of the layer's outputs; where only slices are known, the end of the last one."""
        if self.out is not None:
            return self.out
        return max(int(branch.b.shape[0]) if branch.rows is None else branch.rows[1] for branch in self.branches)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter in memory.

    Attributes:
        config: the settings it was trained with.
        layers: its updates by module path in the base ("transformer.h.0.attn.c_attn").
        biases: trained biases by full parameter name ("transformer.h.0.attn.c_attn.bias"), float32.
        base_fingerprint: SHA-256 of the base's weights (`models.fingerprint`); None if another program
            made the adapter.
        base_name: the name of the base (`adapters.base_names`), by which it is found where the user names none.
        meta: the rest of `tailora.json`: linearisation, prompt form, data fingerprint, scores.
        unknown_base_reported: whether a warning that the base is unknown has been logged.
        drafts: n-grams of its training texts, which make writing faster and change no text; None if there are none.
    """

    config: LoraConfig
    layers: Mapping[str, LayerAdapter]
    biases: Mapping[str, Floats] = field(default_factory=dict)
    base_fingerprint: str | None = None
    base_name: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    unknown_base_reported: bool = False
    drafts: DraftTable | None = None

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything that affects a result: names, scales, ranges and values. Caches use it as key."""
        digest = hashlib.sha256()
        for name, layer in sorted(self.layers.items()):
            # The layout in which the base stores its weight does not affect the update.
            kind = "linear" if layer.kind == "gpt2_conv1d" else layer.kind
            digest.update(f"layer {name} {kind}\n".encode())
            for branch in layer.branches:
                digest.update(f"branch {branch.scale!r} {branch.rows} {branch.a.shape} {branch.b.shape}\n".encode())
                digest.update(np.ascontiguousarray(branch.a).tobytes())
                digest.update(np.ascontiguousarray(branch.b).tobytes())
            if layer.magnitude is not None:
                digest.update(f"magnitude {layer.magnitude.shape}\n".encode())
                digest.update(np.ascontiguousarray(layer.magnitude).tobytes())
        for name, bias in sorted(self.biases.items()):
            digest.update(f"bias {name} {bias.shape}\n".encode())
            digest.update(np.ascontiguousarray(bias).tobytes())
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        """Number of values."""
        layers = sum(
            sum(branch.a.size + branch.b.size for branch in layer.branches)
            + (0 if layer.magnitude is None else layer.magnitude.size)
            for layer in self.layers.values()
        )
        return layers + sum(bias.size for bias in self.biases.values())


def changes_nothing(adapter: Adapter) -> bool:
    """Return whether the adapter has no effect on any base: every branch has a factor or a scale of zero.

    Trained biases and magnitudes count as an effect, because the values they replace are unknown here.
    """
    branches = [branch for layer in adapter.layers.values() for branch in layer.branches]
    if adapter.biases or any(layer.magnitude is not None for layer in adapter.layers.values()):
        return False
    return not any(branch.scale and branch.a.any() and branch.b.any() for branch in branches)


class TrainedOnBase(Protocol):
    """What is known of the base that something was trained on; see `Adapter` for the attributes."""

    @property
    def base_fingerprint(self) -> str | None:
        """See `Adapter`."""

    @property
    def base_name(self) -> str | None:
        """See `Adapter`."""

    @property
    def unknown_base_reported(self) -> bool:
        """See `Adapter`."""


def require_base(adapter: TrainedOnBase, *, fingerprint: str, base_name: str, place: str, force: bool) -> None:
    """Check that an adapter was trained on a base's weights; warn if that is unknown.

    Args:
        adapter: the adapter.
        fingerprint: SHA-256 of the base's weights.
        base_name: the base's name, for messages.
        place: the adapter's path, for messages.
        force: log a warning instead of raising.

    Raises:
        AdapterError: the adapter was trained on other weights.
    """
    if adapter.base_fingerprint is None:
        if not adapter.unknown_base_reported:
            log.warning("%s does not record which weights it was trained on; only shapes are checked", place)
    elif adapter.base_fingerprint != fingerprint:
        what = f"it was trained on other weights than those of {base_name}"
        if not force:
            hint = f"name its own base ({adapter.base_name}), or use it anyway with --force"
            raise AdapterError(what, where=place, hint=hint)
        log.warning("%s: %s; using it anyway because of --force", place, what)
