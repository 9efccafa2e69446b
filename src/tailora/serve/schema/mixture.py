"""Several adapters with weights in one request."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tailora.data.mixtures import HEAVIEST
from tailora.serve.schema.body import Body


class WeightedAdapter(Body):
    """An adapter and the factor of its effect."""

    name: str
    """Name of an adapter, as GET /v1/models lists them."""
    weight: float = Field(1.0, ge=-HEAVIEST, le=HEAVIEST)
    """Factor of the adapter's effect, from -100 to 100."""


class Mixing(Body):
    """The fields that weight adapters, of all routes that write."""

    adapters: list[WeightedAdapter] | None = Field(None, min_length=1, max_length=16)
    """Adapters whose effects are added with weights; `model` is the base or one of them."""
    scale: float | None = Field(None, ge=-HEAVIEST, le=HEAVIEST)
    """Factor of the effect of `model`, which is an adapter or a composition, from -100 to 100. Default: 1."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.scale is not None and self.adapters is not None:
            raise ValueError("scale has no meaning with adapters, which have their own weights; remove one of the two")
        return self
