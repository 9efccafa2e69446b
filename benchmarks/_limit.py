"""The arithmetic limit of the machine, with which a training step is compared."""

from __future__ import annotations

import math
import time
from typing import Any

import torch


def matmul_gflops(dtype: torch.dtype, *, side: int = 2048, seconds: float = 2.0, device: str = "cpu") -> float:
    """The best GFLOP/s (10^9 operations a second, a product and a sum being two) of a square matrix product.

    Args:
        dtype: of the factors and the result.
        side: rows and columns of both factors.
        seconds: how long to repeat the product; the fastest repetition counts. Where a single one would take much
            longer, as in bf16 on a CPU that has no instructions for it, a smaller product has to do.
        device: where; on a GPU the sides are four times as long.
    """
    if device != "cpu":
        return _rate(dtype, 4 * side, seconds, device)
    small = _rate(dtype, side // 8, 0)
    return small if 2 * side**3 / small / 1e9 > 10 * seconds else _rate(dtype, side, seconds)


def _rate(dtype: torch.dtype, side: int, seconds: float, device: str = "cpu") -> float:
    left, right = torch.randn(2, side, side).to(device, dtype)
    best, deadline = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < deadline:
        start = time.perf_counter()
        torch.mm(left, right)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def int8_gops(size: int = 2048, repeats: int = 5) -> float:
    """Best rate of oneDNN's u8 by s8 product, in 10^9 operations a second; 0 where the CPU has no AVX2."""
    if not torch.cpu._is_avx2_supported():
        return 0.0
    rows = torch.randint(0, 255, (size, size), dtype=torch.uint8)
    weight = torch.randint(-127, 127, (size, size), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    scales, zeros = torch.ones(size), torch.zeros(size, dtype=torch.int64)
    options: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        torch.ops.onednn.qlinear_pointwise(rows, 1.0, 128, packed, scales, zeros, *options)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9
