"""Adapters in slots: the factors of all adapters of a step, stacked into one pair of matrices per group of slots.

A step multiplies the rows of a group with all slots of the group, and keeps the result of each row's slot. With few
slots there is one group, and any mixture of adapters takes the same two products. Filling a slot writes only its part
of the matrices.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tailora.adapters.adapter import Adapter, changes_nothing
from tailora.core.errors import AdapterError
from tailora.engine.arrays import Floats

GROUPED = 4  # slots per group: with fewer the products are too thin, with more they compute too much for other slots
_MERGE = "merge it into the base"


@dataclass(frozen=True, eq=False)
class SlotFactors:
    """Factors of one layer: A [groups, W, in] and B [groups, out, W], W being the ranks of a group's slots together.

    With n slots per group, slot s is in group s // n and uses the `rank` columns of W from (s mod n) · rank.
    """

    a: Floats
    b: Floats


@dataclass
class _Registered:
    adapter: Adapter
    key: str
    slot: int | None = None
    users: int = 0


def grouping(slots: int, grouped: int) -> tuple[int, int]:
    """Return the number of slots per group, and the number of groups."""
    per_group = max(1, min(slots, grouped))
    return per_group, max(1, -(-slots // per_group))


class AdapterSlots:
    """Any number of registered adapters, some of them in slots. An adapter in use keeps its slot.

    Args:
        targets: (in, out) of each layer that can be adapted, by module path.
        slots: number of adapters that a step can mix.
        rank: largest rank of an adapter in a layer; ranks of slices add up.
        grouped: slots per group.
        base_fingerprint: fingerprint of the base model.
    """

    def __init__(
        self,
        targets: Mapping[str, tuple[int, int]],
        *,
        slots: int,
        rank: int,
        grouped: int = GROUPED,
        base_fingerprint: str | None = None,
    ) -> None:
        self.slots, self.rank = slots, rank
        self.grouped, self.groups = grouping(slots, grouped)
        width = self.grouped * rank
        self.factors = {
            path: SlotFactors(
                np.zeros((self.groups, width, inputs), np.float32), np.zeros((self.groups, outputs, width), np.float32)
            )
            for path, (inputs, outputs) in targets.items()
        }
        self._fingerprint = base_fingerprint
        self._registered: dict[str, _Registered] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # in a slot and not in use; the longest idle first
        self._empty = list(range(slots - 1, -1, -1))

    @property
    def names(self) -> list[str]:
        """Names of the registered adapters, in the order of registration."""
        return list(self._registered)

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
        if known.users:
            raise AdapterError("is in use", where=name, hint="wait until its requests are done")
        del self._registered[name]
        if known.slot is not None:
            del self._idle[name]
            self._empty.append(known.slot)

    def key(self, name: str) -> str:
        """Return the content hash of an adapter, which distinguishes it from others of the same name.

        Raises:
            AdapterError: the name is not registered.
        """
        return self._find(name).key

    def acquire(self, name: str) -> int | None:
        """Return the slot of an adapter, filling one if necessary. It stays there until `release` is called as often.

        Returns:
            The slot; None while other adapters use all of them.

        Raises:
            AdapterError: the name is not registered.
        """
        known = self._find(name)
        if known.slot is None:
            if not self._empty and not self._idle:
                return None
            if not self._empty:
                loser = self._registered[self._idle.popitem(last=False)[0]]
                assert loser.slot is not None
                self._empty.append(loser.slot)
                loser.slot = None
            known.slot = self._empty.pop()
            self._fill(known.slot, known.adapter)
        self._idle.pop(name, None)
        known.users += 1
        return known.slot

    def release(self, name: str) -> None:
        """Remove a user of an adapter."""
        known = self._find(name)
        assert known.users > 0
        known.users -= 1
        if not known.users:
            self._idle[name] = None

    def place(self, path: str, slot: int) -> tuple[Floats, Floats]:
        """Return a slot's A [rank, in] and B [out, rank] in a layer, as views."""
        group, place = divmod(slot, self.grouped)
        stretch = slice(place * self.rank, (place + 1) * self.rank)
        factors = self.factors[path]
        return factors.a[group, stretch], factors.b[group, :, stretch]

    def _find(self, name: str) -> _Registered:
        known = self._registered.get(name)
        if known is None:
            there = ", ".join(sorted(self._registered)[:8]) or "none"
            raise AdapterError("no adapter with this name is registered", where=name, hint=f"use one of: {there}")
        return known

    def _fill(self, slot: int, adapter: Adapter) -> None:
        for path in self.factors:
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
            if path not in self.factors:
                problems.append(f"adapts {path}, which has no slot")
                continue
            if layer.magnitude is not None:
                problems.append(f"rescales the outputs of {path} (DoRA)")
            inputs, outputs = self.factors[path].a.shape[2], self.factors[path].b.shape[1]
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
