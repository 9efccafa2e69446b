"""Run commands in separate processes, so that peak memory and speed belong to one command."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tailora.core.errors import TrainingError


class CommandError(TrainingError):
    """A command in a separate process ended with a `UserError`, or was killed."""


def run_command(*arguments: str) -> dict[str, Any]:
    """Run a `tailora` command in a separate process, and return its result.

    Raises:
        CommandError: it ended with a `UserError`, or was killed.
        RuntimeError: it ended with another exception.
    """
    return run_module("tailora", *arguments, "--json")


def run_module(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of this package as a program that prints one JSON object; see `run_command`."""
    command = [sys.executable, "-P", "-m", module, *arguments]
    # Libraries write to stderr in the encoding of the system.
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode == 0:
        result: dict[str, Any] = json.loads(done.stdout)
        return result
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode == 2:
        raise CommandError(last.removeprefix("tailora: "))
    if done.returncode < 0:
        raise CommandError(f"killed by signal {-done.returncode}, possibly for lack of memory")
    if done.returncode == 130:
        raise KeyboardInterrupt
    raise RuntimeError(f"{' '.join((module, *arguments[:1]))} ended with {done.returncode}: {done.stderr}")
