"""Main memory: how much this process may use, uses, and has used at most."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import NamedTuple

from tailora.core.hardware.cgroups import cgroup_folders, reclaimable_bytes
from tailora.core.hardware.system_files import output_of, read_kilobytes, read_number

if sys.platform == "win32":
    from ctypes import wintypes
else:
    import resource

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


class Memory(NamedTuple):
    """Bytes of main memory that this process may use in all, and those it could still take without swapping."""

    total: int | None
    available: int | None


def memory() -> Memory:
    """Return the main memory, within the limits of this process's cgroups."""
    system = _system_memory()
    totals, available = [system.total], [system.available]
    for folder in cgroup_folders("memory"):
        limit = read_number(folder / "memory.max") or read_number(folder / "memory.limit_in_bytes")
        used = read_number(folder / "memory.current") or read_number(folder / "memory.usage_in_bytes")
        # A v1 cgroup without a limit reports about 2^63.
        if limit is not None and used is not None and limit < (system.total or limit + 1):
            totals.append(limit)
            available.append(max(0, limit - used + reclaimable_bytes(folder)))
    return Memory(_least(totals), _least(available))


def peak_rss() -> int | None:
    """Return the peak bytes of resident memory of this process since it started its program.

    On Linux this is the kernel's VmHWM: getrusage's ru_maxrss would include the parent process's peak.
    """
    return _resident().peak


def rss() -> int | None:
    """Return the bytes of memory that this process holds resident."""
    return _resident().now


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocations; no effect with other C libraries.

    Every update frees most of what it allocated. By default glibc returns that to the system, which then has to
    clear the same pages again: 4% of the time of a GPT-2 update on the benchmarks' machine. Peak memory is unchanged.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _least(amounts: list[int | None]) -> int | None:
    return min((amount for amount in amounts if amount is not None), default=None)


class _Resident(NamedTuple):
    """Peak and current bytes of resident memory of this process."""

    peak: int | None
    now: int | None


if sys.platform == "win32":

    class _MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("dwLength", wintypes.DWORD),
            ("dwMemoryLoad", wintypes.DWORD),
            *((name, ctypes.c_uint64) for name in ("ullTotalPhys", "ullAvailPhys", "ullTotalPageFile")),
            *((name, ctypes.c_uint64) for name in ("ullAvailPageFile", "ullTotalVirtual", "ullAvailVirtual")),
            ("ullAvailExtendedVirtual", ctypes.c_uint64),
        )

    class _MemoryCounters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of the Windows API."""

        _fields_ = (
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            *((name, ctypes.c_size_t) for name in ("PeakWorkingSetSize", "WorkingSetSize", "QuotaPeakPagedPoolUsage")),
            *((name, ctypes.c_size_t) for name in ("QuotaPagedPoolUsage", "QuotaPeakNonPagedPoolUsage")),
            *((name, ctypes.c_size_t) for name in ("QuotaNonPagedPoolUsage", "PagefileUsage", "PeakPagefileUsage")),
        )

    def _system_memory() -> Memory:
        status = _MemoryStatus(dwLength=ctypes.sizeof(_MemoryStatus))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return Memory(int(status.ullTotalPhys), int(status.ullAvailPhys))

    def _resident() -> _Resident:
        counters = _MemoryCounters(cb=ctypes.sizeof(_MemoryCounters))
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.GetCurrentProcess.restype = wintypes.HANDLE
        query = kernel32.K32GetProcessMemoryInfo
        query.argtypes = (wintypes.HANDLE, ctypes.POINTER(_MemoryCounters), wintypes.DWORD)
        query(kernel32.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
        return _Resident(int(counters.PeakWorkingSetSize), int(counters.WorkingSetSize))

else:

    def _system_memory() -> Memory:
        amounts = read_kilobytes(Path("/proc/meminfo"))
        if "MemTotal" in amounts:
            return Memory(amounts["MemTotal"], amounts.get("MemAvailable"))
        return Memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None)

    def _resident() -> _Resident:
        amounts = read_kilobytes(Path("/proc/self/status"))
        if "VmHWM" in amounts:
            return _Resident(amounts["VmHWM"], amounts.get("VmRSS"))
        unit = 1 if sys.platform == "darwin" else 1024
        now = output_of("ps", "-o", "rss=", "-p", str(os.getpid()))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return _Resident(peak, int(now) * 1024 if now.isdigit() else None)
