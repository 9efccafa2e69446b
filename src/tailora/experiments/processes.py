"""Commands run in processes of their own, so that a peak of memory is that command's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tailora.core.errors import TrainingError


class CommandError(TrainingError):
    """A command in a process of its own ended with a mistake that it reported in a line."""


def run_command(*arguments: str) -> dict[str, Any]:
    """Run a verb in a process of its own, and take its result.

    Raises:
        CommandError: it ended with a mistake, or was killed.
        RuntimeError: it ended with a bug of ours.
    """
    command = [sys.executable, "-P", "-m", "tailora", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode == 0:
        result: dict[str, Any] = json.loads(done.stdout)
        return result
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode == 2:
        raise CommandError(last.removeprefix("tailora: "))
    if done.returncode < 0:
        raise CommandError(f"killed by signal {-done.returncode}, as for want of memory")
    if done.returncode == 130:
        raise KeyboardInterrupt
    raise RuntimeError(f"tailora {arguments[0]} ended with {done.returncode}: {done.stderr}")
