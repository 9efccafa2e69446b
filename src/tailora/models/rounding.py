"""Weights in 8 bits with one scale per output: rounding, and the form that a model folder stores. No torch.

A folder stores a weight as unsigned integers, with `NAME.scale` and `NAME.zero` shaped so that (values - zero) * scale
broadcasts to the weight. The zero is always 128: symmetric ranges are what CPUs multiply fastest.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tailora.adapters.adapter import Floats
from tailora.core.hardware.processor import cores

ZERO = 128
_BLOCK = 1 << 16  # values rounded at once: 256 KiB, which fits a core's cache


def round_rows(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """A matrix rounded to 8 bits, and the scale of each row.

    Several threads round some rows at a time, so that each value is read from memory once.

    Args:
        weight: float32 [out, in].

    Returns:
        int8 [out, in] from -127 to 127, and float32 [out, 1].
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


def packed(weight: Floats, *, outputs_first: bool = True) -> tuple[NDArray[np.uint8], Floats, NDArray[np.uint8]]:
    """A weight as a folder stores it.

    Args:
        weight: float32 [out, in], or [in, out].
        outputs_first: whether it is [out, in].

    Returns:
        Values, uint8 in the weight's shape; scale, float32, and zero, uint8, both [out, 1] or [1, out].
    """
    values, steps = round_rows(np.ascontiguousarray(weight if outputs_first else weight.T))
    whole = (values.view(np.uint8) ^ np.uint8(ZERO), steps)  # adds 128
    numbers, scale = whole if outputs_first else (np.ascontiguousarray(part.T) for part in whole)
    return numbers, scale, np.full(scale.shape, ZERO, np.uint8)
