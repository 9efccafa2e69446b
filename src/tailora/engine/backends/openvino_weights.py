"""The weights of a base model for an OpenVINO graph, with an adapter's updates added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openvino import opset13 as ops

from tailora.adapters.adapter import Adapter, LayerAdapter
from tailora.core.errors import AdapterError, ModelError
from tailora.engine.arrays import Floats
from tailora.engine.backend import Precision
from tailora.engine.backends.openvino_nodes import Node, whole
from tailora.models.fingerprint import canonical_name
from tailora.models.rounding import round_rows
from tailora.models.weights import stored_tensors, widened


class Weights:
    """Stored tensors by canonical name, converted to fp32, with an adapter's updates added."""

    def __init__(self, folder: Path, merged: Adapter | None) -> None:
        self._folder = folder
        layers = {} if merged is None else merged.layers
        self._updates = {canonical_name(f"{path}.weight"): layer for path, layer in layers.items()}
        self._tensors = {canonical_name(name): tensor for name, tensor in stored_tensors(folder).items()}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __call__(self, name: str, *shape: int) -> Floats:
        """Return a tensor in fp32, with its update.

        Raises:
            ModelError: the tensor is missing, or has another shape.
            AdapterError: the update does not fit.
        """
        if name not in self._tensors:
            raise ModelError(f"weights are missing: {name}", where=self._folder, hint="fetch the model again")
        values = widened(self._tensors[name])
        if values.shape != shape:
            raise ModelError(
                f"{name} has the shape {list(values.shape)}; config.json requires {list(shape)}",
                where=self._folder,
                hint="fetch the model again",
            )
        update = self._updates.pop(name, None)
        return values if update is None else values + _update(update, name, values.shape)

    def are_equal(self, one: str, other: str) -> bool:
        """Return whether two tensors have the same numbers."""
        first, second = self._tensors[one], self._tensors[other]
        return first.dtype == second.dtype and np.array_equal(first.raw, second.raw)

    def require_all_merged(self) -> None:
        """Raise `AdapterError` if the adapter to merge has layers that the graph does not have."""
        if self._updates:
            raise AdapterError(
                f"the base has no layer {next(iter(self._updates))}",
                hint="name the base that the adapter was trained on",
            )


def _update(layer: LayerAdapter, name: str, shape: tuple[int, ...]) -> Floats:
    """Return the update of a linear layer's weight, in the layout of the weight."""
    outputs_first = shape if layer.kind == "linear" else shape[::-1]
    total = np.zeros(outputs_first, np.float32)
    for branch in layer.branches:
        first, last = branch.rows or (0, len(total))
        place = total[first:last]
        if branch.a.shape != (branch.rank, total.shape[1]) or branch.b.shape != (len(place), branch.rank):
            shapes = f"{list(branch.a.shape)} and {list(branch.b.shape)}"
            raise AdapterError(f"has factors of {shapes} for {name}, which is {list(shape)}")
        place += np.float32(branch.scale) * (branch.b @ branch.a)
    return total if layer.kind == "linear" else total.T


def in_dtype(value: float, precision: Precision) -> float:
    """Round a number as a network's parameter is rounded: to bf16 with "bf16" (to nearest, ties to even)."""
    if precision != "bf16":
        return value
    bits = int(np.float32(value).view(np.uint32))
    return float(np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32))


@dataclass
class Matrix:
    """A weight [out, in] in the graph, in fp32 or in 8 bits with one scale per output."""

    values: Node
    scales: Node | None = None

    @classmethod
    def of(cls, weight: Floats, precision: Precision) -> Matrix:
        """Convert a weight [out, in] to a precision."""
        if precision != "int8":
            return cls(ops.constant(np.ascontiguousarray(weight)))
        return cls(*(ops.constant(part) for part in round_rows(weight)))

    def whole(self) -> Node:
        """Return the whole weight."""
        return self.values if self.scales is None else self._exact(self.values, self.scales)

    def rows(self, indices: Node) -> Node:
        """Return some rows of the weight, as an embedding does."""
        axis = whole(0)
        if self.scales is None:
            return ops.gather(self.values, indices, axis)
        return self._exact(ops.gather(self.values, indices, axis), ops.gather(self.scales, indices, axis))

    @staticmethod
    def _exact(values: Node, scales: Node) -> Node:
        return ops.multiply(ops.convert(values, "f32"), scales)
