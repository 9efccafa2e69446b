"""The files and commands by which systems describe themselves; empty or None where there is none."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def read_text(path: Path) -> str:
    """Return a system file's text; empty where this system has no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """Return the number that a system file consists of; None where there is none."""
    text = read_text(path).strip()
    return int(text) if text.isdigit() else None


def read_kilobytes(path: Path) -> dict[str, int]:
    """Return the `name: N kB` lines of a file such as /proc/meminfo, in bytes."""
    return {name: int(n) * 1024 for name, n in re.findall(r"^(\w+):\s*(\d+) kB$", read_text(path), re.MULTILINE)}


def output_of(*command: str) -> str:
    """Return what a system command prints; empty where there is no such command, or it does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=5)
        return done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
