"""Which sequence holds which block of the key-value cache; numbers only, no tensor.

A block holds the keys and values of a fixed number of successive tokens. Full blocks can be found again by what led to
them, so that sequences which begin alike share them; a shared block is never written.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np


class OutOfBlocksError(Exception):
    """No block is free: someone has to give some back first."""


class BlockPool:
    """Counts the users of every block.

    A block nobody uses is free. If it is known by a key it keeps its contents until the room is needed, the one that
    has lain longest going first.

    Args:
        blocks: how many there are.
        size: tokens a block holds.
    """

    def __init__(self, blocks: int, size: int) -> None:
        self.blocks, self.size = blocks, size
        self._users = [0] * blocks
        self._blank = list(range(blocks - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # free, contents known; the longest free first
        self._by_key: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """How many blocks can be taken."""
        return len(self._blank) + len(self._kept)

    def needed(self, tokens: int) -> int:
        """How many blocks so many tokens fill."""
        return -(-tokens // self.size)

    def take(self, count: int) -> list[int]:
        """Blocks for one user, contents to be written.

        Raises:
            OutOfBlocksError: fewer are free; none is taken then.
        """
        if count > self.free:
            raise OutOfBlocksError(f"{count} blocks wanted and {self.free} free")
        taken = []
        for _ in range(count):
            block = self._blank.pop() if self._blank else self._kept.popitem(last=False)[0]
            self._forget(block)
            self._users[block] = 1
            taken.append(block)
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """One user more for each of these, which are in use or kept."""
        for block in blocks:
            self._kept.pop(block, None)
            self._users[block] += 1

    def give_back(self, blocks: Iterable[int]) -> None:
        """One user less for each of these blocks of one sequence, given in the sequence's order.

        The last block of a sequence is reused before its first: `find` ends at the first block that is missing, so the
        head of a chain is worth more than its tail.
        """
        for block in reversed(list(blocks)):
            assert self._users[block] > 0
            self._users[block] -= 1
            if self._users[block] == 0:
                if block in self._key_of:
                    self._kept[block] = None
                else:
                    self._blank.append(block)

    def users(self, block: int) -> int:
        """How many share a block."""
        return self._users[block]

    def publish(self, block: int, key: bytes) -> None:
        """Make a full block known by what it holds; the first one published under a key stays the known one."""
        if key not in self._by_key and block not in self._key_of:
            self._by_key[key], self._key_of[block] = block, key

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """The known blocks of a chain of keys, as far as they are known without a gap."""
        found = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._by_key[key]


def block_keys(root: bytes, tokens: Sequence[int], size: int, known: Sequence[bytes] = ()) -> list[bytes]:
    """A key for each full block of a sequence, which stands for all tokens up to the block's end.

    Args:
        root: what keys and values depend on beside the tokens: base, precision, adapter and its scale.
        tokens: of the sequence from its start.
        size: tokens a block holds.
        known: keys of its first blocks, from an earlier call.
    """
    keys = list(known)
    for number in range(len(keys), len(tokens) // size):
        part = np.asarray(tokens[number * size : (number + 1) * size], np.int32).tobytes()
        keys.append(hashlib.blake2b((keys[-1] if keys else root) + part, digest_size=16).digest())
    return keys
