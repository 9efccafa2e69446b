"""Blocks of the cache: none is lost, none is held by one who gave it back, and what is found is what was published."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.engine.kv_blocks import BlockPool, OutOfBlocksError, block_keys


def test_takes_all_or_none() -> None:
    pool = BlockPool(3, 4)
    taken = pool.take(2)
    with pytest.raises(OutOfBlocksError, match="2 blocks are needed and 1 are free"):
        pool.take(2)
    assert pool.free == 1
    pool.give_back(taken)
    assert sorted(pool.take(3)) == [0, 1, 2]
    assert [pool.needed(tokens) for tokens in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_what_was_published_is_found_until_its_room_is_needed() -> None:
    pool = BlockPool(3, 2)
    first, second = pool.take(2)
    keys = block_keys(b"root", [1, 2, 3, 4, 5], 2)
    pool.publish(first, keys[0])
    pool.publish(second, keys[1])
    pool.give_back([first, second])
    assert pool.free == 3
    assert pool.find(keys) == [first, second]
    pool.share(pool.find(keys[:1]))
    assert pool.take(2)  # the third block and the second, which nobody holds
    assert pool.find(keys) == [first]
    assert pool.users(first) == 1


def test_an_eviction_costs_one_block_of_a_chain() -> None:
    pool = BlockPool(4, 2)
    keys = block_keys(b"root", list(range(8)), 2)
    chain = pool.take(4)
    for block, key in zip(chain, keys, strict=True):
        pool.publish(block, key)
    pool.give_back(chain)
    for kept in (3, 2, 1, 0):
        pool.take(1)
        assert pool.find(keys) == chain[:kept]


def test_keys_stand_for_everything_before() -> None:
    tokens = list(range(10))
    keys = block_keys(b"root", tokens, 4)
    assert len(keys) == 2
    assert block_keys(b"root", [*tokens, 10, 11], 4, keys)[:2] == keys
    assert block_keys(b"other", tokens, 4)[0] != keys[0]
    assert block_keys(b"root", [9, *tokens[1:]], 4)[1] != keys[1]


def test_a_key_stays_with_the_block_first_published() -> None:
    pool = BlockPool(2, 2)
    one, two = pool.take(2)
    pool.publish(one, b"key")
    pool.publish(two, b"key")
    assert pool.find([b"key"]) == [one]
    pool.give_back([two])
    assert pool.find([b"key"]) == [one]


@given(st.lists(st.tuples(st.sampled_from(["take", "share", "give", "publish"]), st.integers(0, 7)), max_size=80))
def test_blocks_are_conserved(moves: list[tuple[str, int]]) -> None:
    pool = BlockPool(6, 2)
    held: list[list[int]] = []
    published: dict[bytes, int] = {}
    for move, number in moves:
        if move == "take":
            count = number % 4
            if count <= pool.free:
                held.append(pool.take(count))
                published = {key: block for key, block in published.items() if block not in held[-1]}
            else:
                with pytest.raises(OutOfBlocksError):
                    pool.take(count)
        elif move == "share":
            found = pool.find([b"%d" % number])
            pool.share(found)
            held.append(found)
        elif move == "give" and held:
            pool.give_back(held.pop(number % len(held)))
        elif move == "publish" and held and held[-1]:
            key = b"%d" % number
            if key not in published and held[-1][0] not in published.values():
                published[key] = held[-1][0]
            pool.publish(held[-1][0], key)
        users = Counter(block for blocks in held for block in blocks)
        assert pool.free == pool.blocks - len(users)
        assert all(pool.users(block) == users[block] for block in range(pool.blocks))
        assert all(pool.find([key]) == [block] for key, block in published.items())
