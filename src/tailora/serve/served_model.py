"""A model that requests name: the base, an adapter, or several adapters with weights."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tailora.core.errors import SettingsError
from tailora.data.mixtures import Mixture
from tailora.data.prompts import PromptFormat
from tailora.data.values import Record
from tailora.engine.requests import mixture_of


@dataclass(eq=False)
class ServedModel:
    """A base, an adapter, or several adapters with weights.

    Attributes:
        name: name that clients use.
        engine_name: name of this version in the engine; None for the base and for a mixture.
        meta: how it was trained: prompt form and linearisation, as far as known.
        prompts: how its prompts are built.
        system_fingerprint: identifies all that a text depends on besides the request: weights, precision, version.
        rank: largest rank of a branch; 0 for the base.
        slot_rank: rank that it needs in an adapter slot: the largest sum of ranks on one layer.
        created: time of loading, in seconds since 1970.
        users: number of requests that write with it.
        retired: whether it was replaced or unloaded.
        parts: of a mixture, its adapters and their weights.
    """

    name: str
    engine_name: str | None
    meta: Mapping[str, Any]
    prompts: PromptFormat
    system_fingerprint: str
    rank: int = 0
    slot_rank: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    users: int = 0
    retired: bool = False
    parts: tuple[tuple[ServedModel, float], ...] = ()

    @property
    def adapters(self) -> Mixture:
        """The adapters as the engine's requests name them."""
        mixture = tuple((part.engine_name or "", weight) for part, weight in self.parts)
        return mixture or mixture_of(self.engine_name)

    def warnings(self, records: Sequence[Record]) -> list[str]:
        """Return sentences about attributes of records that the model was not trained on."""
        unknown = self.prompts.unknown_attributes(records)
        return [f"{self.name} was not trained on {', '.join(map(repr, unknown))}"] if unknown else []


def mixed(name: str, parts: Sequence[tuple[ServedModel, float]]) -> ServedModel:
    """Return adapters with weights as one model.

    Args:
        name: name that the request uses.
        parts: the adapters, each once, and the factors of their effects.

    Raises:
        SettingsError: an adapter is named twice, is part of the network, or was trained on other prompts.
    """
    first = parts[0][0]
    if len({model for model, _ in parts}) < len(parts):
        raise SettingsError("an adapter is named twice", where="adapters", hint="add its weights")
    for model, _ in parts:
        if model.engine_name is None:
            what = f"{model.name} is not an adapter that can be mixed"
            raise SettingsError(what, where="adapters", hint="name adapters, as GET /v1/models lists them")
        if _prompt_of(model) != _prompt_of(first):
            what = f"the adapters {first.name} and {model.name} were trained on different prompts"
            raise SettingsError(what, where="adapters", hint="use adapters with the same prompts")
    described = " ".join(f"{model.system_fingerprint} {weight!r}" for model, weight in parts)
    return ServedModel(
        name,
        None,
        first.meta,
        first.prompts,
        f"fp_{hashlib.sha256(described.encode()).hexdigest()[:12]}",
        rank=max(model.rank for model, _ in parts),
        slot_rank=max(model.slot_rank for model, _ in parts),
        created=max(model.created for model, _ in parts),
        parts=tuple(parts),
    )


def scaled(model: ServedModel, factor: float) -> ServedModel:
    """Return a model whose adapters have a fraction of their effect.

    Raises:
        SettingsError: the model is the base, or its adapter is part of the network.
    """
    if model.engine_name is None and not model.parts:
        what = f"{model.name} is not an adapter whose effect can be scaled"
        raise SettingsError(what, where="scale", hint="name an adapter as model, or remove the field")
    parts = model.parts or ((model, 1.0),)
    return mixed(model.name, [(part, weight * factor) for part, weight in parts])


def _prompt_of(model: ServedModel) -> tuple[object, ...]:
    """Return what the token ids of an adapter's prompts depend on, besides the base."""
    prompts = model.prompts
    return prompts.form, prompts.style, prompts.bos, prompts.end, prompts.trained, prompts.source
