"""The arithmetic limit of the machine, against which a training step is held."""

from __future__ import annotations

import time

import torch


def matmul_gflops(dtype: torch.dtype, *, side: int = 2048, seconds: float = 2.0) -> float:
    """The best GFLOP/s (10^9 operations a second, a product and a sum being two) of a square matrix product.

    Args:
        dtype: of the factors and the result.
        side: rows and columns of both factors.
        seconds: how long to repeat the product; the fastest repetition counts.
    """
    left, right = torch.randn(2, side, side).to(dtype)
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9
