"""The types of the engine's arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tailora.adapters.adapter import Floats

Ints = NDArray[np.int32]
"""Integers of 32 bits."""
__all__ = ["Floats", "Ints"]
