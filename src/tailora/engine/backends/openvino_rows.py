"""Rows of an OpenVINO graph by the group of their adapter's slot.

Dimensions in names: G groups of slots, P most rows of a group, W the ranks of a group's slots together, O outputs.
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
    """The room for adapters in a graph: how many, of what rank at most, on which layers.

    Attributes:
        slots: how many adapters fit side by side.
        rank: most that one may have.
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
    """Rows by the group of their adapter's slot, and what is theirs of what a group's slots make of them.

    Attributes:
        places: input `places` [G, P], which row stands there; any, where none does. None with one group of all rows.
        back: input `back` [rows], where in G · P each row stands; None with one group.
        chosen: [G, P, W], whether a column belongs to the slot of the row that stands there; from input `slots`
            [G, P], -1 where none does or its row has no adapter.
        scales: [G, P, 1], what the row's effect is multiplied by; from input `scales` [G, P].
    """

    places: Node | None
    back: Node | None
    chosen: Node
    scales: Node

    @classmethod
    def of(cls, add_input: AddInput, shape: SlotShape, prefix: str = "") -> GroupedRows:
        """Add its inputs to a graph, with a prefix to their names."""
        each, groups = grouping(shape.slots, shape.grouped)
        slots_GP1 = ops.unsqueeze(add_input(f"{prefix}slots", [groups, -1], "i32"), whole(2))
        scales_GP1 = ops.unsqueeze(add_input(f"{prefix}scales", [groups, -1], "f32"), whole(2))
        owners = np.repeat(np.arange(groups * each, dtype=np.int32), shape.rank).reshape(groups, 1, -1)
        places = back = None
        if groups > 1:
            places = add_input(f"{prefix}places", [groups, -1], "i32")
            back = add_input(f"{prefix}back", [-1], "i32")
        return cls(places, back, ops.equal(slots_GP1, ops.constant(owners)), scales_GP1)

    def take(self, x: Node) -> Node:
        """[rows, …] to [G, P, …]."""
        return ops.unsqueeze(x, whole(0)) if self.places is None else ops.gather(x, self.places, whole(0))

    def update(self, low_GPW: Node, b_GOW: Node) -> Node:
        """What each row's own adapter adds, [rows, out], from what all of its group make of it."""
        # Chosen, not multiplied by 0: an overflow in another slot's columns must not become NaN here.
        own_GPW = ops.select(self.chosen, ops.multiply(low_GPW, self.scales), real(0.0))
        added_GPO = ops.matmul(own_GPW, b_GOW, False, True)
        if self.back is None:
            return ops.squeeze(added_GPO, whole(0))
        outputs = b_GOW.get_output_partial_shape(0)[1].get_length()
        return ops.gather(ops.reshape(added_GPO, whole_list(-1, outputs), False), self.back, whole(0))
