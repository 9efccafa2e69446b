"""The processor: usable cores, name and instruction sets."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from tailora.core.hardware.cgroups import cgroup_folders, cpu_quota
from tailora.core.hardware.system_files import output_of, read_text

INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "bf16", "i8mm", "sve", "sve2"),
)


def cores() -> int:
    """Return the number of cores this process may use: those of its affinity, at most what a limit grants."""
    return granted_cores() or _visible_cores()


def granted_cores() -> int | None:
    """Return the number of cores that a limit grants; None unless the process sees more cores.

    A limit is the quota of a cgroup, rounded up, or Slurm's `--cpus-per-task`: not every cluster confines a job to it.
    """
    limits = [quota for folder in cgroup_folders("cpu") if (quota := cpu_quota(folder)) is not None]
    task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    limits += [int(task)] if task.isdecimal() and int(task) > 0 else []
    least = min(limits, default=None)
    return least if least is not None and least < _visible_cores() else None


def _visible_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's marketing name, or its architecture where the system does not report the name."""
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", read_text(Path("/proc/cpuinfo")), re.MULTILINE)
    if match:
        return match[1].strip()
    name = output_of("sysctl", "-n", "machdep.cpu.brand_string") if sys.platform == "darwin" else platform.processor()
    return name or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Return the members of `INSTRUCTION_SETS` that the processor has, by Linux's names; empty on other systems."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", read_text(Path("/proc/cpuinfo")), re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    return tuple(name for name in INSTRUCTION_SETS if name in flags)
