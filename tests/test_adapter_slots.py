"""Slots: what a slot does is what its adapter does, whatever else was filled or put out meanwhile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.core.errors import AdapterError
from tailora.engine.adapter_slots import AdapterSlots, LayerStack

TARGETS = {"h.0.attn.c_attn": (6, 12), "h.1.mlp.c_fc": (6, 8)}
STACKS = [LayerStack.single(path, *widths) for path, widths in TARGETS.items()]


def low_rank(seed: int, inputs: int, outputs: int, rank: int, rows: tuple[int, int] | None = None) -> LowRank:
    rng = np.random.default_rng(seed)
    written = outputs if rows is None else rows[1] - rows[0]
    a, b = rng.normal(size=(rank, inputs)), rng.normal(size=(written, rank))
    return LowRank(a.astype(np.float32), b.astype(np.float32), 0.5 + seed % 3, rows)


def adapter(seed: int = 0) -> Adapter:
    """On one layer slice by slice, on the other whole or, at every third seed, not at all."""
    slices = (low_rank(seed, 6, 12, 1, (0, 4)), low_rank(seed + 1, 6, 12, 2, (8, 12)))
    layers = {"h.0.attn.c_attn": LayerAdapter("gpt2_conv1d", slices, out=12)}
    if seed % 3:
        layers["h.1.mlp.c_fc"] = LayerAdapter("linear", (low_rank(seed + 2, 6, 8, 4),))
    return Adapter(LoraConfig(rank=4), layers, base_fingerprint="base")


def delta(of: Adapter, path: str) -> np.ndarray:
    inputs, outputs = TARGETS[path]
    whole = np.zeros((outputs, inputs), np.float32)
    for branch in of.layers[path].branches if path in of.layers else ():
        low, high = branch.rows or (0, outputs)
        whole[low:high] += branch.scale * branch.b @ branch.a
    return whole


def assert_slot_is(adapter_slots: AdapterSlots, slot: int, of: Adapter) -> None:
    for path in adapter_slots.layers:
        a, b = adapter_slots.place(path, slot)
        np.testing.assert_allclose(b @ a, delta(of, path), atol=1e-5)


def adapter_slots_of(count: int, slots: int) -> tuple[AdapterSlots, list[Adapter]]:
    adapter_slots = AdapterSlots(STACKS, slots=slots, rank=4, grouped=2, base_fingerprint="base")
    adapters = [adapter(seed) for seed in range(count)]
    for number, each in enumerate(adapters):
        adapter_slots.register(str(number), each)
    return adapter_slots, adapters


def acquire(adapter_slots: AdapterSlots, *names: int) -> tuple[int, ...]:
    slots = adapter_slots.acquire([str(name) for name in names])
    assert slots is not None
    return slots


def test_the_longest_idle_makes_room_and_those_in_use_stay() -> None:
    adapter_slots, adapters = adapter_slots_of(4, slots=2)
    first, second = acquire(adapter_slots, 0), acquire(adapter_slots, 1)
    assert adapter_slots.acquire(["2"]) is None
    adapter_slots.release(second)
    assert acquire(adapter_slots, 2) == second
    assert_slot_is(adapter_slots, first[0], adapters[0])
    assert_slot_is(adapter_slots, second[0], adapters[2])
    adapter_slots.release(first)
    adapter_slots.release(second)
    assert acquire(adapter_slots, 2) == second  # it is still there, and the other has been idle for longer
    assert acquire(adapter_slots, 3) == first
    assert_slot_is(adapter_slots, first[0], adapters[3])


def test_a_name_can_be_given_again_once_it_is_free() -> None:
    adapter_slots, _ = adapter_slots_of(1, slots=1)
    old = adapter_slots.key("0")
    slots = acquire(adapter_slots, 0)
    with pytest.raises(AdapterError, match="0: is in use; wait"):
        adapter_slots.unregister("0")
    adapter_slots.release(slots)
    adapter_slots.unregister("0")
    adapter_slots.register("0", adapter(5))
    assert adapter_slots.key("0") != old
    assert acquire(adapter_slots, 0) == slots
    assert_slot_is(adapter_slots, 0, adapter(5))


def test_adapters_of_one_text_are_in_one_group() -> None:
    adapter_slots, adapters = adapter_slots_of(4, slots=4)  # groups of two
    assert adapter_slots.together == 2
    alone = [acquire(adapter_slots, number) for number in (0, 1, 2)]
    assert alone == [(0,), (1,), (2,)]
    assert acquire(adapter_slots, 1, 0) == (1, 0)  # they are together already
    assert acquire(adapter_slots, 3, 2) == (3, 2)
    assert adapter_slots.acquire(["0", "2"]) is None  # both groups are in use
    for slots in (alone[0], alone[1], (1, 0)):
        adapter_slots.release(slots)
    both = acquire(adapter_slots, 0, 2)  # 2 gets a second slot, in place of 1
    assert both == (0, 1)
    for slot, number in zip((*both, 2, 3), (0, 2, 2, 3), strict=True):
        assert_slot_is(adapter_slots, slot, adapters[number])
    with pytest.raises(AdapterError, match="2: is in use"):
        adapter_slots.unregister("2")
    adapter_slots.release(both)
    adapter_slots.release((3, 2))
    adapter_slots.release(alone[2])
    adapter_slots.unregister("2")
    assert acquire(adapter_slots, 1) == (1,)  # an empty slot is filled before an idle one


@given(
    st.lists(
        st.one_of(st.lists(st.integers(0, 5), min_size=1, max_size=2, unique=True), st.integers(0, 40)), max_size=60
    )
)
def test_every_slot_in_use_holds_its_adapter(moves: list[list[int] | int]) -> None:
    """Lists acquire adapters; numbers release what was acquired."""
    adapter_slots, adapters = adapter_slots_of(6, slots=3)  # a group of two and one of one
    acquired: list[tuple[list[int], tuple[int, ...]]] = []
    for move in moves:
        if isinstance(move, int):
            if acquired:
                adapter_slots.release(acquired.pop(move % len(acquired))[1])
        else:
            slots = adapter_slots.acquire([str(number) for number in move])
            in_use = {slot for _, own in acquired for slot in own}
            if slots is None:
                there = {
                    number: {slot for own, at in acquired for n, slot in zip(own, at, strict=True) if n == number}
                    for number in move
                }
                free = [{0, 1} - in_use, {2} - in_use]
                for group, width in ((0, 2), (1, 1)):
                    lacking = sum(not any(slot // 2 == group for slot in there[number]) for number in move)
                    assert len(free[group]) < lacking or len(move) > width
            else:
                assert len({slot // 2 for slot in slots}) == 1
                acquired.append((move, slots))
        for own, at in acquired:
            for number, slot in zip(own, at, strict=True):
                assert_slot_is(adapter_slots, slot, adapters[number])


def with_layer(layer: LayerAdapter, path: str = "h.1.mlp.c_fc") -> Adapter:
    return Adapter(LoraConfig(rank=4), {path: layer})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            with_layer(LayerAdapter("linear", (low_rank(0, 6, 8, 5),))),
            "has rank 5 in h.1.mlp.c_fc, and slots have rank 4",
        ),
        (
            with_layer(LayerAdapter("linear", (low_rank(0, 6, 8, 2),)), "h.9.mlp"),
            "adapts h.9.mlp, which has no slot",
        ),
        (with_layer(LayerAdapter("linear", (low_rank(0, 6, 8, 2),), np.ones(8, np.float32))), "DoRA"),
        (with_layer(LayerAdapter("linear", (low_rank(0, 7, 8, 2),))), r"factors of \[2, 7\] and \[8, 2\]"),
        (with_layer(LayerAdapter("linear", (low_rank(0, 6, 8, 2, (6, 10)),))), "writes outputs up to 10 of 8"),
        (with_layer(LayerAdapter("linear", (replace(low_rank(0, 6, 8, 2), scale=float("inf")),))), "not finite"),
        (replace(adapter(), biases={"h.0.bias": np.ones(3, np.float32)}), "has trained biases"),
        (with_layer(LayerAdapter("linear", (replace(low_rank(0, 6, 8, 2), scale=0.0),))), "changes nothing"),
        (replace(adapter(), base_fingerprint="another", base_name="gpt2"), r"trained on other weights \(gpt2\)"),
    ],
)
def test_what_slots_cannot_express_is_refused(given: Adapter, message: str) -> None:
    adapter_slots = AdapterSlots(STACKS, slots=2, rank=4, base_fingerprint="base")
    with pytest.raises(AdapterError, match=message):
        adapter_slots.register("it", given)
    assert adapter_slots.names == []


def test_names_that_are_taken_or_unknown() -> None:
    adapter_slots, _ = adapter_slots_of(2, slots=1)
    with pytest.raises(AdapterError, match="0: an adapter with this name is already registered"):
        adapter_slots.register("0", adapter(1))
    with pytest.raises(AdapterError, match="7: no adapter with this name is registered; use one of: 0, 1"):
        adapter_slots.acquire(["7"])
    adapter_slots.register("odd", replace(adapter(3), base_fingerprint="another"), force=True)
    assert adapter_slots.acquire(["odd"]) == (0,)


@pytest.mark.parametrize(
    ("used", "groups", "places"),
    [
        ([], range(1), range(1)),
        ([3], range(1, 2), range(1, 2)),
        ([2, 3], range(1, 2), range(2)),
        ([1, 2], range(3), range(2)),
    ],
)
def test_the_factors_that_a_step_needs(used: list[int], groups: range, places: range) -> None:
    adapter_slots, _ = adapter_slots_of(0, slots=6)
    assert adapter_slots.of_slots(used) == (groups, places)


def test_layers_with_one_input_are_stacked() -> None:
    names = [f"h.0.attn.{part}_proj" for part in "qv"]
    stack = LayerStack(6, 12, {names[0]: (0, 4), names[1]: (8, 12)})
    adapter_slots = AdapterSlots([stack], slots=3, rank=3, grouped=2)
    layers = {name: LayerAdapter("linear", (low_rank(seed, 6, 4, 2),)) for seed, name in enumerate(names)}
    for number in range(3):
        adapter_slots.register(str(number), Adapter(LoraConfig(rank=2), layers))
        assert adapter_slots.acquire([str(number)]) == (number,)
    factors, whole = adapter_slots.factors[stack.name], np.zeros((6, 12), np.float32)
    for name, (first, last) in stack.layers.items():
        (branch,) = layers[name].branches
        whole[:, first:last] = branch.scale * (branch.b @ branch.a).T
    for slot in range(3):
        group, place = divmod(slot, 2)
        columns = slice(6 * place, 6 * place + 6)
        update = factors.a[group, columns].T @ factors.b[group, columns]
        np.testing.assert_allclose(update, whole, atol=1e-5)
