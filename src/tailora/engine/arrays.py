"""The types of the engine's arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
"""Integers of 32 bits."""
Floats = NDArray[np.float32]
"""Numbers in fp32."""
