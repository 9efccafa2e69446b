"""How this process was started: alone, or by `torchrun` as one of several that work on one run.

`torchrun` describes the processes in environment variables. This module reads them without loading PyTorch, so that a
command can refuse to run in several processes, and so that messages are printed once.
"""

from __future__ import annotations

import os

_chosen: bool | None = None


def size() -> int:
    """Return the number of processes of the run; 1 for a process that `torchrun` did not start."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Return the number of this process among those of the run, from 0."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Return the number of this process among those of the run on this machine, from 0."""
    return _number("LOCAL_RANK", 0)


def local_size() -> int:
    """Return the number of processes of the run on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def reports() -> bool:
    """Whether this process prints an error that ends the run.

    As long as `choose_reporter` was not called, the first process of each machine does, because an error at the start
    concerns all processes of a machine.
    """
    return local_rank() == 0 if _chosen is None else _chosen


def choose_reporter(is_chosen: bool | None) -> None:
    """Set whether this process prints errors; None is the default of `reports`."""
    global _chosen
    _chosen = is_chosen


def _number(name: str, otherwise: int) -> int:
    """Return a number that `torchrun` has set; other programs set variables of these names as well."""
    value = os.environ.get(name, "")
    return int(value) if "TORCHELASTIC_RUN_ID" in os.environ and value.isdecimal() else otherwise
