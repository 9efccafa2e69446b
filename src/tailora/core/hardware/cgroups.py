"""The limits that Linux's control groups (v1 and v2) set for this process, a container's among them."""

from __future__ import annotations

import re
from pathlib import Path

from tailora.core.hardware.system_files import read_text

CGROUPS = Path("/sys/fs/cgroup")


def cgroup_folders(controller: str) -> list[Path]:
    """Return the folders of this process's cgroup for a controller and of all its parents, in v1 and v2."""
    folders: list[Path] = []
    for line in read_text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        own = root / path.lstrip("/")
        # Inside a container the path may be the host's, while the mount shows the container's cgroup as the root.
        folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(root) and folder.is_dir()]
    return folders


def cpu_quota(folder: Path) -> int | None:
    """Return the number of cores whose time a cgroup grants, rounded up; None without a limit."""
    limit, _, period = read_text(folder / "cpu.max").partition(" ")
    if not limit:
        limit, period = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
    if not (limit.strip().isdigit() and period.strip().isdigit()):  # "max" and -1 set no limit
        return None
    return max(1, -(-int(limit) // int(period)))


def reclaimable_bytes(folder: Path) -> int:
    """Return the bytes of cached files that a cgroup counts as used and that the kernel frees on demand."""
    stat = read_text(folder / "memory.stat")
    match = re.search(r"^total_inactive_file (\d+)$", stat, re.MULTILINE)
    match = match or re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
    return int(match[1]) if match else 0
