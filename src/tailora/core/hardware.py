"""What this machine offers: usable cores, memory, instruction sets, the speed of bf16.

Limits that a container sets (affinity, cgroup v1 and v2) count. What a system does not tell is None or empty,
never a guess. PyTorch is imported only where a device or a speed is asked for.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tailora.core.errors import SettingsError

if sys.platform == "win32":
    from ctypes import wintypes
else:
    import resource

CGROUPS = Path("/sys/fs/cgroup")
INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "bf16", "i8mm", "sve", "sve2"),
)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
PACKAGES = ("tailora", "torch", "transformers", "tokenizers", "safetensors", "numpy", "peft")


class Memory(NamedTuple):
    """Bytes of main memory this process may have in all, and those it could still take without swapping."""

    total: int | None
    available: int | None


def cores() -> int:
    """Cores this process may use at once: its affinity, and no more than its cgroups' quota rounded up."""
    usable = os.cpu_count() or 1
    if sys.platform == "linux":
        usable = len(os.sched_getaffinity(0))
    quotas = (_quota(folder) for folder in _cgroup_folders("cpu"))
    return min(usable, *(quota for quota in quotas if quota is not None), usable)


def memory() -> Memory:
    """Main memory, with the limits of this process's cgroups."""
    system = _system_memory()
    totals, available = [system.total], [system.available]
    for folder in _cgroup_folders("memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        # A v1 cgroup without a limit reports about 2^63.
        if limit is not None and used is not None and limit < (system.total or limit + 1):
            totals.append(limit)
            available.append(max(0, limit - used + _reclaimable(folder)))
    return Memory(_least(totals), _least(available))


def peak_rss() -> int | None:
    """The most bytes of memory this process has held resident since it started its program.

    On Linux the kernel's VmHWM: getrusage's ru_maxrss would also count the parent that this process was
    started from.
    """
    return _resident().peak


def rss() -> int | None:
    """Bytes of memory this process holds resident now."""
    return _resident().now


def peak_gpu_memory(device: str = "cuda") -> int | None:
    """The most bytes that PyTorch's tensors have held on a GPU since this process started; None elsewhere.

    Args:
        device: as PyTorch names it; "cuda" is the current GPU, "cuda:1" the second.
    """
    torch = sys.modules.get("torch")
    if torch is None or torch.device(device).type != "cuda" or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated(device))


def gpu_name(device: str = "cuda") -> str | None:
    """A CUDA device's name; None where PyTorch is not loaded or sees none: naming it is not worth loading PyTorch."""
    torch = sys.modules.get("torch")
    if torch is None or torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name(device))


def process_lives(pid: int) -> bool:
    """Whether a process of this machine runs."""
    return _runs(pid)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for what is allocated next; without effect where it is not glibc.

    Every update frees most of what it allocated. By default glibc gives that back to the system, which then has to
    clear the same pages anew: 4% of an update of GPT-2's on the benchmarks' machine. The peak stays what it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def cpu_name() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    if found:
        return found[1].strip()
    name = _output("sysctl", "-n", "machdep.cpu.brand_string") if sys.platform == "darwin" else platform.processor()
    return name or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Those of `INSTRUCTION_SETS` that the processor has, by Linux's names; empty on other systems."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def describe() -> dict[str, Any]:
    """The machine and the software, for the record of a run; memory in bytes."""
    total, available = memory()
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "cpu": cpu_name(),
        "cores": cores(),
        "instruction_sets": list(instruction_sets()),
        "memory_total": total,
        "memory_available": available,
        "gpu": gpu_name(),
    }


def choose_device(device: str) -> str:
    """The device to compute on: as told, and for "auto" a GPU if PyTorch sees one.

    Raises:
        SettingsError: PyTorch has no such device here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # which of them is PyTorch's choice
        hint = "use cpu; cuda needs an NVIDIA GPU and a PyTorch built for it"
        raise SettingsError(f"PyTorch finds no {device!r} here", where="device", hint=hint) from error
    return device


def _cgroup_folders(controller: str) -> list[Path]:
    """The folders of this process's cgroup for a controller and of all its parents, in v1 and v2."""
    folders: list[Path] = []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        own = root / path.lstrip("/")
        # Inside a container the path may be the host's, while the mount shows the container's cgroup as the root.
        folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(root) and folder.is_dir()]
    return folders


def _quota(folder: Path) -> int | None:
    """Cores' worth of time a cgroup allows, rounded up."""
    limit, _, period = _text(folder / "cpu.max").partition(" ")
    if not limit:
        limit, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    if not (limit.strip().isdigit() and period.strip().isdigit()):  # "max" and -1 set no limit
        return None
    return max(1, -(-int(limit) // int(period)))


def _reclaimable(folder: Path) -> int:
    """Bytes of cached file pages that a cgroup counts as used and gives back when asked."""
    stat = _text(folder / "memory.stat")
    found = re.search(r"^total_inactive_file (\d+)$", stat, re.MULTILINE)
    found = found or re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
    return int(found[1]) if found else 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _least(amounts: list[int | None]) -> int | None:
    return min((amount for amount in amounts if amount is not None), default=None)


def _kilobytes(path: Path) -> dict[str, int]:
    """The `name: N kB` lines of one of Linux's accounts, in bytes."""
    return {name: int(n) * 1024 for name, n in re.findall(r"^(\w+):\s*(\d+) kB$", _text(path), re.MULTILINE)}


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """A system file's text, or nothing where this system has no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a system command prints, or nothing where there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=5).stdout.strip()
    except OSError:
        return ""


class _Resident(NamedTuple):
    """Bytes of memory the process has held resident at most, and holds now."""

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

    def _runs(pid: int) -> bool:
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.OpenProcess.restype = wintypes.HANDLE
        handle = kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = wintypes.DWORD()
        kernel32.GetExitCodeProcess(wintypes.HANDLE(handle), ctypes.byref(code))
        kernel32.CloseHandle(wintypes.HANDLE(handle))
        return code.value == 259  # STILL_ACTIVE

else:

    def _system_memory() -> Memory:
        amounts = _kilobytes(Path("/proc/meminfo"))
        if "MemTotal" in amounts:
            return Memory(amounts["MemTotal"], amounts.get("MemAvailable"))
        return Memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None)

    def _resident() -> _Resident:
        amounts = _kilobytes(Path("/proc/self/status"))
        if "VmHWM" in amounts:
            return _Resident(amounts["VmHWM"], amounts.get("VmRSS"))
        unit = 1 if sys.platform == "darwin" else 1024
        now = _output("ps", "-o", "rss=", "-p", str(os.getpid()))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return _Resident(peak, int(now) * 1024 if now.isdigit() else None)

    def _runs(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
        return True
