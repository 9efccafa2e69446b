"""The pool of blocks of the key-value cache. No tensors.

A block contains the keys and values of a fixed number of successive tokens. The key of a full block is a hash of the
tokens up to its end, so that sequences with the same beginning share it. A shared block is never written.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np


class OutOfBlocksError(Exception):
    """Not enough blocks are free."""


class BlockPool:
    """Counts the users of every block.

    A block without users is free. If it has a key, it keeps its contents until the block is needed; the block that has
    been free longest is reused first.

    Args:
        blocks: number of blocks.
        size: tokens per block.
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
        """Number of blocks that can be taken."""
        return len(self._blank) + len(self._kept)

    def needed(self, tokens: int) -> int:
        """Return the number of blocks for a number of tokens."""
        return -(-tokens // self.size)

    def take(self, count: int) -> list[int]:
        """Take blocks for one user, to be written.

        Raises:
            OutOfBlocksError: fewer blocks are free; none is taken.
        """
        if count > self.free:
            raise OutOfBlocksError(f"{count} blocks are needed and {self.free} are free")
        taken = []
        for _ in range(count):
            block = self._blank.pop() if self._blank else self._kept.popitem(last=False)[0]
            self._forget(block)
            self._users[block] = 1
            taken.append(block)
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Add a user to each of these blocks, which are in use or kept."""
        for block in blocks:
            self._kept.pop(block, None)
            self._users[block] += 1

    def give_back(self, blocks: Iterable[int]) -> None:
        """Remove a user from each of these blocks of one sequence, in the order of the sequence.

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
        """Return the number of users of a block."""
        return self._users[block]

    def publish(self, block: int, key: bytes) -> None:
        """Set the key of a full block. The first block published under a key keeps it."""
        if key not in self._by_key and block not in self._key_of:
            self._by_key[key], self._key_of[block] = block, key

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """Return the blocks of a chain of keys, up to the first key without a block."""
        blocks = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._by_key[key]


def block_keys(root: bytes, tokens: Sequence[int], size: int, known: Sequence[bytes] = ()) -> list[bytes]:
    """Return the key of each full block of a sequence, computed from all tokens up to the block's end.

    Args:
        root: identifies what keys and values depend on besides the tokens: the adapter and its scale.
        tokens: tokens of the sequence, from its start.
        size: tokens per block.
        known: keys of the first blocks, from an earlier call.
    """
    keys = list(known)
    for number in range(len(keys), len(tokens) // size):
        part = np.asarray(tokens[number * size : (number + 1) * size], np.int32).tobytes()
        keys.append(hashlib.blake2b((keys[-1] if keys else root) + part, digest_size=16).digest())
    return keys
