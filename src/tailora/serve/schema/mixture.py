"""Several adapters with weights in one request."""

from __future__ import annotations

from pydantic import Field

from tailora.serve.schema.body import Body


class WeightedAdapter(Body):
    """An adapter and the factor of its effect."""

    name: str
    """Name of an adapter, as GET /v1/models lists them."""
    weight: float = Field(1.0, ge=-100, le=100)
    """Factor of the adapter's effect, from -100 to 100."""


class Mixing(Body):
    """The field that names several adapters, of all routes that write."""

    adapters: list[WeightedAdapter] | None = Field(None, min_length=1, max_length=16)
    """Adapters whose effects are added with weights; `model` is the base or one of them."""
