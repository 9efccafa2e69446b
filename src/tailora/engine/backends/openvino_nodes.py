"""Constants of an OpenVINO graph, and the type of its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from openvino import opset13 as ops

Node = Any  # an ov.Node or one of its outputs; OpenVINO's type hints do not distinguish them


def real(value: float) -> Node:
    """Return a constant in fp32."""
    return ops.constant(np.array(value, np.float32))


def whole(value: int) -> Node:
    """Return an integer constant."""
    return ops.constant(np.array(value, np.int32))


def whole_list(*values: int) -> Node:
    """Return a constant list of integers."""
    return ops.constant(np.array(values, np.int32))
