"""Sizes of files and memory for people."""

from __future__ import annotations

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size(amount: float, *, like: float | None = None) -> str:
    """Return a number of bytes with three digits and its unit, such as 812 KiB or 1.25 GiB.

    Args:
        amount: bytes.
        like: bytes whose unit is used instead of the amount's own, so that sizes which are compared have one unit.
    """
    reference = amount if like is None else like
    power = 0
    while power + 1 < len(_UNITS) and round(reference / 1024**power) >= 1000:
        power += 1
    number = amount / 1024**power
    digits = 0 if power == 0 or number >= 99.95 else 1 if number >= 9.995 else 2
    return "1 byte" if (amount, power) == (1, 0) else f"{number:,.{digits}f} {_UNITS[power]}"
