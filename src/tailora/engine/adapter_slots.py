"""Adapters in slots: the factors of all adapters of a step, stacked into one pair of matrices per group of slots.

A step multiplies the rows of a group with all slots of the group, and keeps the result of each row's slot. With few
slots there is one group, and any mixture of adapters takes the same two products; so do layers with the same input.
Filling a slot writes only its part of the matrices.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailora.adapters.adapter import Adapter, changes_nothing
from tailora.adapters.draft_table import DraftTable
from tailora.core.errors import AdapterError
from tailora.engine.arrays import Floats

GROUPED = 4  # slots per group: with fewer the products are too thin, with more they compute too much for other slots
_MERGE = "merge it into the base"


@dataclass(frozen=True)
class LayerStack:
    """Layers with the same input, whose updates are computed by one pair of products.

    Attributes:
        inputs: width of the input.
        outputs: width of all outputs that are computed together, those of layers without slots included.
        layers: the layers by module path, each with its first output and the one after its last.
    """

    inputs: int
    outputs: int
    layers: Mapping[str, tuple[int, int]]

    @classmethod
    def single(cls, path: str, inputs: int, outputs: int) -> LayerStack:
        """Return the stack of a layer that shares its input with no other."""
        return cls(inputs, outputs, {path: (0, outputs)})

    @property
    def name(self) -> str:
        """The module path of its first layer."""
        return next(iter(self.layers))


@dataclass(frozen=True, eq=False)
class SlotFactors:
    """Factors of a stack of L layers: A [groups, W, in] and B [groups, W, out], W being the columns of a group's slots.

    With n slots per group, slot s is in group s // n and has L · `rank` columns of W from (s mod n) · L · `rank`, those
    of the first layer first. Where a column of one layer meets outputs of another, B is 0.
    """

    a: Floats
    b: Floats


@dataclass
class _Registered:
    """A registered adapter, and its slots by their groups."""

    adapter: Adapter
    key: str
    slots: dict[int, int] = field(default_factory=dict)


@dataclass
class _Slot:
    """What is in a slot, and how many sequences use it."""

    name: str | None = None
    users: int = 0


def grouping(slots: int, grouped: int) -> tuple[int, int]:
    """Return the number of slots per group, and the number of groups."""
    per_group = max(1, min(slots, grouped))
    return per_group, max(1, -(-slots // per_group))


class AdapterSlots:
    """Any number of registered adapters, some of them in slots. A slot in use keeps its adapter.

    Adapters that a text uses together are in slots of one group, so an adapter can be in several groups at a time.

    Args:
        stacks: the layers that can be adapted.
        slots: number of adapters that a step can mix.
        rank: largest rank of an adapter in a layer; ranks of slices add up.
        grouped: slots per group.
        base_fingerprint: fingerprint of the base model.
    """

    def __init__(
        self,
        stacks: Iterable[LayerStack],
        *,
        slots: int,
        rank: int,
        grouped: int = GROUPED,
        base_fingerprint: str | None = None,
    ) -> None:
        self.slots, self.rank = slots, rank
        self.grouped, self.groups = grouping(slots, grouped)
        self.factors: dict[str, SlotFactors] = {}  # by the name of the stack
        self.layers: dict[str, LayerStack] = {}
        for stack in stacks:
            width = self.grouped * len(stack.layers) * rank
            a, b = (np.zeros((self.groups, width, size), np.float32) for size in (stack.inputs, stack.outputs))
            self.factors[stack.name] = SlotFactors(a, b)
            self.layers |= dict.fromkeys(stack.layers, stack)
        self._fingerprint = base_fingerprint
        self._registered: dict[str, _Registered] = {}
        self._slots = [_Slot() for _ in range(slots)]
        self._idle: OrderedDict[int, None] = OrderedDict()  # slots that are filled and not in use; longest idle first

    @property
    def names(self) -> list[str]:
        """Names of the registered adapters, in the order of registration."""
        return list(self._registered)

    @property
    def together(self) -> int:
        """Largest number of adapters that a text can use."""
        return min(self.slots, self.grouped)

    def __contains__(self, name: str) -> bool:
        return name in self._registered

    def register(self, name: str, adapter: Adapter, *, force: bool = False) -> None:
        """Register an adapter under a name; it gets a slot when it is first used.

        Args:
            name: a name that is not registered.
            adapter: the adapter.
            force: accept an adapter that was trained on other weights.

        Raises:
            AdapterError: it changes nothing, is for another base, or cannot be expressed in slots.
        """
        if name in self._registered:
            raise AdapterError("an adapter with this name is already registered", where=name, hint="unload it first")
        self._check(name, adapter, force)
        self._registered[name] = _Registered(adapter, adapter.content_hash)

    def unregister(self, name: str) -> None:
        """Remove an adapter and empty its slot. Requests that wait for it end with an error at the next step.

        Raises:
            AdapterError: the name is not registered, or a running sequence uses the adapter.
        """
        known = self._find(name)
        if any(self._slots[slot].users for slot in known.slots.values()):
            raise AdapterError("is in use", where=name, hint="wait until its requests are done")
        del self._registered[name]
        for slot in known.slots.values():
            del self._idle[slot]
            self._slots[slot].name = None

    def key(self, name: str) -> str:
        """Return the content hash of an adapter, which distinguishes it from others of the same name.

        Raises:
            AdapterError: the name is not registered.
        """
        return self._find(name).key

    def drafts(self, name: str) -> DraftTable | None:
        """Return the n-grams of an adapter's training texts, if it has them.

        Raises:
            AdapterError: the name is not registered.
        """
        return self._find(name).adapter.drafts

    def acquire(self, names: Sequence[str]) -> tuple[int, ...] | None:
        """Return the slots of adapters in one group, filling some if necessary. They stay until they are released.

        Args:
            names: different registered adapters, at most `together`.

        Returns:
            The slots, in the order of the names; None while there is no room for these adapters in any group.

        Raises:
            AdapterError: a name is not registered.
        """
        known = {name: self._find(name) for name in names}
        if not known:
            return ()
        plans = (plan for group in range(self.groups) if (plan := self._plan(known, group)) is not None)
        best = min(plans, default=None)
        if best is None:
            return None
        *_, group, free = best
        missing = [name for name in names if group not in known[name].slots]
        for name, slot in zip(missing, free, strict=True):
            self._put(name, slot, group)
        slots = tuple(known[name].slots[group] for name in names)
        for slot in slots:
            self._idle.pop(slot, None)
            self._slots[slot].users += 1
        return slots

    def _plan(self, known: Mapping[str, _Registered], group: int) -> tuple[int, int, int, int, list[int]] | None:
        """Return how adapters would be placed in a group; None if there is no room.

        The tuple is smaller for better plans: number of slots to fill, number of adapters to evict, how recently the
        last of these was used, the group, and the slots to fill.
        """
        missing = sum(group not in registered.slots for registered in known.values())
        slots = range(group * self.grouped, min((group + 1) * self.grouped, self.slots))
        empty = [slot for slot in slots if self._slots[slot].name is None]
        ages = [(age, slot) for age, slot in enumerate(self._idle) if slot in slots]
        idle = [(age, slot) for age, slot in ages if self._slots[slot].name not in known]
        evicted = idle[: max(0, missing - len(empty))]
        if len(empty) + len(evicted) < missing:
            return None
        free = (empty + [slot for _, slot in evicted])[:missing]
        return missing, len(evicted), max((age for age, _ in evicted), default=-1), group, free

    def _put(self, name: str, slot: int, group: int) -> None:
        loser = self._slots[slot].name
        if loser is not None:
            del self._registered[loser].slots[group]
            del self._idle[slot]
        self._slots[slot].name = name
        self._registered[name].slots[group] = slot
        self._fill(slot, self._registered[name].adapter)

    def release(self, slots: Iterable[int]) -> None:
        """Remove a user of each slot."""
        for slot in slots:
            assert self._slots[slot].users > 0
            self._slots[slot].users -= 1
            if not self._slots[slot].users:
                self._idle[slot] = None

    def place(self, path: str, slot: int) -> tuple[Floats, Floats]:
        """Return a slot's A [rank, in] and B [out, rank] in a layer, as views."""
        stack = self.layers[path]
        factors, (first, last) = self.factors[stack.name], stack.layers[path]
        group, place = divmod(slot, self.grouped)
        column = (place * len(stack.layers) + list(stack.layers).index(path)) * self.rank
        columns = slice(column, column + self.rank)
        return factors.a[group, columns], factors.b[group, columns, first:last].T

    def of_slots(self, slots: Iterable[int]) -> tuple[range, range]:
        """Return the fewest groups and slots of each group whose factors can be used in place of all factors.

        These are one slot, one group or all groups, so that steps have few shapes.

        Args:
            slots: the slots of a step's adapters.
        """
        used = set(slots) or {0}
        groups = {slot // self.grouped for slot in used}
        if len(groups) > 1:
            return range(self.groups), range(self.grouped)
        (group,) = groups
        places = range(self.grouped)
        if len(used) == 1:
            place = used.pop() % self.grouped
            places = range(place, place + 1)
        return range(group, group + 1), places

    def _find(self, name: str) -> _Registered:
        known = self._registered.get(name)
        if known is None:
            there = ", ".join(sorted(self._registered)[:8]) or "none"
            raise AdapterError("no adapter with this name is registered", where=name, hint=f"use one of: {there}")
        return known

    def _fill(self, slot: int, adapter: Adapter) -> None:
        for path in self.layers:
            a, b = self.place(path, slot)
            a[:] = b[:] = 0
            done = 0
            for branch in adapter.layers[path].branches if path in adapter.layers else ():
                first, last = branch.rows or (0, len(b))
                a[done : done + branch.rank] = branch.a
                b[first:last, done : done + branch.rank] = branch.b * np.float32(branch.scale)
                done += branch.rank

    def _check(self, name: str, adapter: Adapter, force: bool) -> None:
        if changes_nothing(adapter):
            raise AdapterError("changes nothing: all its updates are zero", where=name, hint="train it again")
        trained_on, own = adapter.base_fingerprint, self._fingerprint
        if trained_on is not None and own is not None and trained_on != own and not force:
            base_name = adapter.base_name or "another base"
            raise AdapterError(
                f"was trained on other weights ({base_name})", where=name, hint="use the base that it was trained on"
            )
        problems = []
        if adapter.biases:
            problems.append("has trained biases")
        for path, layer in adapter.layers.items():
            if path not in self.layers:
                problems.append(f"adapts {path}, which has no slot")
                continue
            if layer.magnitude is not None:
                problems.append(f"rescales the outputs of {path} (DoRA)")
            stack = self.layers[path]
            inputs, outputs = stack.inputs, stack.layers[path][1] - stack.layers[path][0]
            total = sum(branch.rank for branch in layer.branches)
            if total > self.rank:
                problems.append(f"has rank {total} in {path}, and slots have rank {self.rank}")
            for branch in layer.branches:
                rows = outputs if branch.rows is None else branch.rows[1] - branch.rows[0]
                if branch.a.shape != (branch.rank, inputs) or branch.b.shape != (rows, branch.rank):
                    shapes = f"{list(branch.a.shape)} and {list(branch.b.shape)}"
                    problems.append(f"has factors of {shapes} in {path}, which do not fit the layer")
                elif branch.rows is not None and branch.rows[1] > outputs:
                    problems.append(f"writes outputs up to {branch.rows[1]} of {outputs} in {path}")
                elif not (np.isfinite(branch.a).all() and np.isfinite(branch.b * np.float32(branch.scale)).all()):
                    problems.append(f"has numbers that are not finite in {path}")
        if problems:
            shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            raise AdapterError(shown, where=name, hint=_MERGE)
