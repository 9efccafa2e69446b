"""Rows of an OpenVINO graph by the group of their adapter's slot.

Dimensions in names: G groups of slots, P most rows of a group, A most adapters of a row, W the ranks of a group's slots
together, O outputs.
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


@dataclass(frozen=True)
class GroupedRows:
    """Rows arranged by the group of their adapters' slots, and the selection of each row's slots.

    Attributes:
        places: input `places` [G, P], the row in each place; any row in unused places. None if there is one group.
        back: input `back` [rows], the place of each row in G · P; None if there is one group.
        chosen: [G, P, W], whether a column belongs to a slot of the row in this place. From input `slots` [G, P, A],
            which is -1 where a row has fewer than A adapters, and in unused places.
        scales: [G, P, W], factor of the column's effect on the row, 0 for other slots. From input `scales` [G, P, A].
    """

    places: Node | None
    back: Node | None
    chosen: Node
    scales: Node

    @classmethod
    def of(cls, add_input: AddInput, shape: SlotShape, prefix: str = "") -> GroupedRows:
        """Add the inputs to a graph, with a prefix to their names."""
        per_group, groups = grouping(shape.slots, shape.grouped)
        slots_GPA1 = ops.unsqueeze(add_input(f"{prefix}slots", [groups, -1, -1], "i32"), whole(3))
        scales_GPA1 = ops.unsqueeze(add_input(f"{prefix}scales", [groups, -1, -1], "f32"), whole(3))
        owners = np.repeat(np.arange(groups * per_group, dtype=np.int32), shape.rank).reshape(groups, 1, 1, -1)
        owned_GPAW = ops.equal(slots_GPA1, ops.constant(owners))
        chosen_GPW = ops.reduce_logical_or(owned_GPAW, whole(2), False)
        scales_GPW = ops.reduce_sum(ops.select(owned_GPAW, scales_GPA1, real(0.0)), whole(2), False)
        places = back = None
        if groups > 1:
            places = add_input(f"{prefix}places", [groups, -1], "i32")
            back = add_input(f"{prefix}back", [-1], "i32")
        return cls(places, back, chosen_GPW, scales_GPW)

    def take(self, x: Node) -> Node:
        """Arrange rows [rows, …] by group, [G, P, …]."""
        return ops.unsqueeze(x, whole(0)) if self.places is None else ops.gather(x, self.places, whole(0))

    def update(self, low_GPW: Node, b_GOW: Node) -> Node:
        """Return the update [rows, out] of each row's adapters, from the products with all slots of its group."""
        # Selected, not multiplied by 0: an overflow in another slot's columns must not become NaN here.
        own_GPW = ops.select(self.chosen, ops.multiply(low_GPW, self.scales), real(0.0))
        added_GPO = ops.matmul(own_GPW, b_GOW, False, True)
        if self.back is None:
            return ops.squeeze(added_GPO, whole(0))
        outputs = b_GOW.get_output_partial_shape(0)[1].get_length()
        return ops.gather(ops.reshape(added_GPO, whole_list(-1, outputs), False), self.back, whole(0))
