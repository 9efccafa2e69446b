"""Rows of an OpenVINO graph by the group of their adapter's slot.

Dimensions in names: G groups of slots, P most rows of a group, S slots of a group, R columns of a slot, W = S · R, O
outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from openvino import opset13 as ops

from tailora.engine.adapter_slots import GROUPED, grouping
from tailora.engine.backends.openvino_nodes import Node, real, whole, whole_list

AddInput = Callable[[str, list[int], str], Node]
"""Adds an input to a graph: its name, shape and type."""


@dataclass(frozen=True)
class SlotShape:
    """The capacity of a graph for adapters.

    Attributes:
        slots: number of adapters that a step can mix.
        rank: largest rank of an adapter in a layer.
        layers: ends of module paths (`families.ends_in`): of linear layers ("attn.c_attn", "self_attn.q_proj"), of
            the token embedding ("wte", "embed_tokens"), of the vocabulary projection ("lm_head").
        grouped: see `adapter_slots.AdapterSlots`.
    """

    slots: int
    rank: int
    layers: tuple[str, ...]
    grouped: int = GROUPED


class GroupedRows:
    """Rows arranged by the group of their adapters' slots, and the selection of each row's slots.

    With one group, rows stay where they are, and the dimension G is left out everywhere.

    Args:
        add_input: adds the inputs to a graph: `scales` [G, P, S], the factor of each slot's effect on a row, 0 for
            slots that the row does not use; with several groups also `places` [G, P], the row in each place, any row
            in unused places, and `back` [rows], the place of each row in G · P. The groups and slots of a step are
            those of `AdapterSlots.of_slots`.
        shape: the capacity of the graph.
        prefix: begins the names of the inputs.
    """

    def __init__(self, add_input: AddInput, shape: SlotShape, prefix: str = "") -> None:
        self._slots, self._rank = shape.slots, shape.rank
        self._grouped = grouping(shape.slots, shape.grouped)[1] > 1
        self._scales = add_input(f"{prefix}scales", [-1, -1, -1] if self._grouped else [-1, -1], "f32")
        self._places = add_input(f"{prefix}places", [-1, -1], "i32") if self._grouped else None
        self._back = add_input(f"{prefix}back", [-1], "i32") if self._grouped else None
        self._selections: dict[int, tuple[Node, Node]] = {}

    def factor(self, add_input: AddInput, name: str, layers: int, width: int) -> Node:
        """Add a factor of a stack of layers as an input of the graph, [G, W, width]."""
        columns = layers * self._rank if self._slots == 1 else -1
        return add_input(name, [-1, columns, width] if self._grouped else [columns, width], "f32")

    def take(self, x: Node) -> Node:
        """Arrange rows [rows, …] by group, [G, P, …]."""
        return x if self._places is None else ops.gather(x, self._places, whole(0))

    def columns(self, a_GWV: Node, tokens: Node) -> Node:
        """Return the products of A with rows that are one-hot, [G, P, W], as an embedding does."""
        if self._places is None:
            return ops.transpose(ops.gather(a_GWV, tokens, whole(1)), whole_list(1, 0))
        low_GWP = ops.gather(a_GWV, self.take(tokens), whole(2), 1)
        return ops.transpose(low_GWP, whole_list(0, 2, 1))

    def update(self, low_GPW: Node, b_GWO: Node, layers: int) -> Node:
        """Return the updates [rows, out] of each row's adapters, from the products with all slots of its group.

        Args:
            low_GPW: the products of the rows with A.
            b_GWO: B.
            layers: number of layers in the stack.
        """
        limits_GPW, scales_GPW = self._selection(layers)
        # Limited to 0 before it is multiplied by 0: an overflow in another slot's columns must not become NaN here.
        # OpenVINO computes these three operations in one pass, but not a selection.
        own_GPW = ops.minimum(ops.maximum(low_GPW, ops.negative(limits_GPW)), limits_GPW)
        own_GPW = ops.multiply(own_GPW, scales_GPW)
        added_GPO = ops.matmul(own_GPW, b_GWO, False, False)
        if self._back is None:
            return added_GPO
        outputs = b_GWO.get_output_partial_shape(0)[2].get_length()
        return ops.gather(ops.reshape(added_GPO, whole_list(-1, outputs), False), self._back, whole(0))

    def _selection(self, layers: int) -> tuple[Node, Node]:
        """Return how large each column's product with a row may be, infinite or 0, and its factor, [G, P, W]."""
        if layers not in self._selections:
            repeated = ops.constant(np.ones(layers * self._rank, np.float32))
            scales_GPSR = ops.multiply(ops.unsqueeze(self._scales, whole(-1)), repeated)
            kept = (0, 0) if self._grouped else (0,)
            scales_GPW = ops.reshape(scales_GPSR, whole_list(*kept, -1), True)
            limits_GPW = ops.select(ops.not_equal(scales_GPW, real(0.0)), real(np.inf), real(0.0))
            self._selections[layers] = limits_GPW, scales_GPW
        return self._selections[layers]
