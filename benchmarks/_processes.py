"""Runs each arm in its own process: starts the benchmark's script again for one arm and reads its JSON line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class ArmError(RuntimeError):
    """An arm's process ended without a result."""


def run_arm(script: Path, arguments: Sequence[str], *, threads: int, python: str = sys.executable) -> dict[str, Any]:
    """Run `python script arguments` and return the JSON object on the last line of its standard output.

    Args:
        script: the benchmark's own file.
        arguments: flags that make it measure one arm.
        threads: OpenMP threads the process gets.
        python: the interpreter that runs it.

    Raises:
        ArmError: the process failed; the message ends in the last lines of its standard error.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [python, str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise ArmError(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_tailora(command: Sequence[str], *, threads: int) -> dict[str, Any]:
    """Run a command of Tailora with `--json` and return its result.

    Args:
        command: the command and its flags.
        threads: OpenMP threads the process gets.

    Raises:
        ArmError: the process failed; the message ends in the last lines of its standard error.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    line = [sys.executable, "-m", "tailora", *command, "--json"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise ArmError(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_rounds(
    arms: Sequence[str],
    rounds: int,
    measure: Callable[[str], dict[str, Any]],
    rates: Callable[[dict[str, Any]], Sequence[str]] = lambda result: (f"{result['tokens_per_second']:.1f} tokens/s",),
) -> list[dict[str, dict[str, Any]]]:
    """Measure all arms in turns, so that a slow moment of the machine meets every arm, and report each figure.

    Args:
        arms: names of the arms.
        rounds: how many times each of them is measured.
        measure: returns the result of an arm.
        rates: the lines that a result is reported with.

    Returns:
        The results of each round by arm. An arm that fails is reported and left out of its round.
    """
    results: list[dict[str, dict[str, Any]]] = []
    for number in range(1, rounds + 1):
        results.append({})
        for arm in arms:
            try:
                results[-1][arm] = measure(arm)
            except (ArmError, OSError, subprocess.CalledProcessError) as error:
                say(f"round {number}  {arm:<20} failed: {error}")
                continue
            for line in rates(results[-1][arm]):
                say(f"round {number}  {arm:<20} {line}")
    return results


def print_result(measure: Callable[[], dict[str, Any]]) -> None:
    """In an arm's process: run `measure`, whatever it prints going to standard error, then print its JSON line."""
    with contextlib.redirect_stdout(sys.stderr):
        result = measure()
    print(json.dumps(result))


def say(text: str) -> None:
    """Progress for the reader, on standard error."""
    print(text, file=sys.stderr, flush=True)
