"""Adapters in slots: the factors of all that may run in one step, stacked into a pair of matrices for some slots each.

A step multiplies the rows of a group of slots with all slots of the group, and keeps of each row what its own slot
gave. With few slots there is one group, and any mixture of adapters is the same two products; with many, a row meets
only the slots of its group. Filling a slot writes its stretch of the matrices, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tailora.adapters.adapter import Adapter, Array, changes_nothing
from tailora.core.errors import AdapterError

GROUPED = 4  # slots of a group: fewer make products too thin to be fast, more multiply rows with what is not theirs
_MERGE = "merge it into the base and run that"


@dataclass(frozen=True, eq=False)
class Factors:
    """Of one layer, with W the ranks of a group's slots together: A [groups, W, in] and B [groups, out, W].

    Slot s is in group s // n of n slots, and has there W's stretch of `rank` from (s mod n) · rank on.
    """

    a: Array
    b: Array


@dataclass
class _Registered:
    adapter: Adapter
    key: str
    slot: int | None = None
    users: int = 0


def grouping(slots: int, grouped: int) -> tuple[int, int]:
    """How many slots a group has, and how many groups there are."""
    each = max(1, min(slots, grouped))
    return each, max(1, -(-slots // each))


class AdapterSlots:
    """Any number of registered adapters, some of them in slots, those in use safe there.

    Args:
        targets: (in, out) of each layer that can be adapted, by module path.
        slots: how many adapters a step can mix.
        rank: most that an adapter may have in a layer, its slices together.
        grouped: how many slots a group has; all where there are fewer.
        base_fingerprint: of the base that the layers belong to.
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
            path: Factors(
                np.zeros((self.groups, width, inputs), np.float32), np.zeros((self.groups, outputs, width), np.float32)
            )
            for path, (inputs, outputs) in targets.items()
        }
        self._fingerprint = base_fingerprint
        self._registered: dict[str, _Registered] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # in a slot, in use by nobody; the longest idle first
        self._empty = list(range(slots - 1, -1, -1))

    @property
    def names(self) -> list[str]:
        """Of the registered adapters, in the order they came."""
        return list(self._registered)

    def __contains__(self, name: str) -> bool:
        return name in self._registered

    def register(self, name: str, adapter: Adapter, *, force: bool = False) -> None:
        """Make an adapter known by a name; it gets a slot when it is first used.

        Args:
            name: not taken yet.
            adapter: what it does.
            force: accept an adapter that was trained on other weights.

        Raises:
            AdapterError: it changes nothing, is for another base, or is something that slots cannot express.
        """
        if name in self._registered:
            raise AdapterError("there is an adapter of this name already", where=name, hint="unload it first")
        self._check(name, adapter, force)
        self._registered[name] = _Registered(adapter, adapter.content_hash)

    def unregister(self, name: str) -> None:
        """Forget an adapter. Its slot is emptied; requests that wait for it end with an error at the next step.

        Raises:
            AdapterError: there is none of this name, or a sequence that has begun uses it.
        """
        known = self._find(name)
        if known.users:
            raise AdapterError("is in use", where=name, hint="wait until its requests are done")
        del self._registered[name]
        if known.slot is not None:
            del self._idle[name]
            self._empty.append(known.slot)

    def key(self, name: str) -> str:
        """The content hash of an adapter, by which caches tell it from another of the same name.

        Raises:
            AdapterError: there is none of this name.
        """
        return self._find(name).key

    def acquire(self, name: str) -> int | None:
        """The slot an adapter is in, filled if need be; it stays there until as many `release`s have come.

        Returns:
            The slot, or None while all are in use by other adapters.

        Raises:
            AdapterError: there is none of this name.
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
        """One user less."""
        known = self._find(name)
        assert known.users > 0
        known.users -= 1
        if not known.users:
            self._idle[name] = None

    def place(self, path: str, slot: int) -> tuple[Array, Array]:
        """A slot's own A [rank, in] and B [out, rank] in a layer, to be written or read."""
        group, place = divmod(slot, self.grouped)
        stretch = slice(place * self.rank, (place + 1) * self.rank)
        factors = self.factors[path]
        return factors.a[group, stretch], factors.b[group, :, stretch]

    def _find(self, name: str) -> _Registered:
        known = self._registered.get(name)
        if known is None:
            there = ", ".join(sorted(self._registered)[:8]) or "none"
            raise AdapterError("there is no adapter of this name", where=name, hint=f"name one of: {there}")
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
            raise AdapterError("changes nothing: a factor is zero in every layer", where=name, hint="train it")
        given, own = adapter.base_fingerprint, self._fingerprint
        if given is not None and own is not None and given != own and not force:
            made_for = adapter.base_name or "another base"
            raise AdapterError(f"was trained on other weights ({made_for})", where=name, hint="name its own base")
        problems = []
        if adapter.biases:
            problems.append("has trained biases")
        for path, layer in adapter.layers.items():
            if path not in self.factors:
                problems.append(f"adapts {path}, for which there is no room")
                continue
            if layer.magnitude is not None:
                problems.append(f"rescales the outputs of {path} (DoRA)")
            inputs, outputs = self.factors[path].a.shape[2], self.factors[path].b.shape[1]
            total = sum(branch.rank for branch in layer.branches)
            if total > self.rank:
                problems.append(f"has rank {total} in {path}, above the {self.rank} of a slot")
            for branch in layer.branches:
                rows = outputs if branch.rows is None else branch.rows[1] - branch.rows[0]
                if branch.a.shape != (branch.rank, inputs) or branch.b.shape != (rows, branch.rank):
                    shapes = f"{list(branch.a.shape)} and {list(branch.b.shape)}"
                    problems.append(f"has factors of {shapes} in {path}, which the layer has no place for")
                elif branch.rows is not None and branch.rows[1] > outputs:
                    problems.append(f"writes outputs up to {branch.rows[1]} of {outputs} in {path}")
                elif not (np.isfinite(branch.a).all() and np.isfinite(branch.b * np.float32(branch.scale)).all()):
                    problems.append(f"has numbers that are not finite in {path}")
        if problems:
            shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            raise AdapterError(shown, where=name, hint=_MERGE)
