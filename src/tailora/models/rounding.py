"""Weights in 8 bits, a step for each output: how they are rounded, and how a model folder keeps them. No torch.

A folder holds a weight as unsigned numbers, with `NAME.scale` and `NAME.zero` shaped so that (values - zero) * scale
broadcasts to the weight. The zero is 128 throughout: steps go as far up as down, which CPUs multiply fastest.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tailora.core.hardware.processor import cores

Array = NDArray[np.float32]
ZERO = 128
_BLOCK = 1 << 16  # numbers rounded at once: 256 KiB, which fits a core's cache


def round_rows(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """A matrix in steps of 8 bits, and the step of each row, [out, 1].

    Some rows at a time, by several threads: what fits a core's cache is read from memory once.
    """
    values, steps = np.empty(weight.shape, np.int8), np.empty((len(weight), 1), np.float32)
    count = max(1, _BLOCK // weight.shape[1])

    def work(low: int) -> None:
        rows = weight[low : low + count]
        peaks = np.maximum(rows.max(1, keepdims=True), -rows.min(1, keepdims=True))
        step = np.maximum(peaks, np.finfo(np.float32).tiny) / np.float32(127)
        scaled = rows / step
        np.rint(scaled, out=scaled)
        values[low : low + count], steps[low : low + count] = scaled, step

    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(work, range(0, len(weight), count)):
            pass
    return values, steps


def packed(weight: Array, *, outputs_first: bool = True) -> tuple[NDArray[np.uint8], Array, NDArray[np.uint8]]:
    """A weight as a folder keeps it: values, scale and zero.

    Args:
        weight: [out, in], or [in, out].
        outputs_first: which of the two.
    """
    values, steps = round_rows(np.ascontiguousarray(weight if outputs_first else weight.T))
    whole = (values.view(np.uint8) ^ np.uint8(ZERO), steps)  # adds 128
    numbers, scale = whole if outputs_first else (np.ascontiguousarray(each.T) for each in whole)
    return numbers, scale, np.full(scale.shape, ZERO, np.uint8)
