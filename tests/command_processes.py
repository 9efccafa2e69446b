"""Processes of `tailora` for tests.

On Linux they are forked from a process that has imported what they need, which takes a fraction of a second.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    _CONTEXT.set_forkserver_preload(["command_processes", "tailora.cli", "tailora.training.run"])


def started(arguments: Sequence[str], errors: Path, *, largest_file: int | None = None) -> BaseProcess:
    """Start a command of `tailora`.

    Args:
        arguments: its arguments.
        errors: the file that standard error goes to.
        largest_file: the limit on the size of files, in bytes.
    """
    process: BaseProcess = _CONTEXT.Process(target=_run, args=(arguments, errors, dict(os.environ), largest_file))
    process.start()
    return process


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Return a context in which another process trains in a run directory, as its lock says."""
    ready = _CONTEXT.Event()
    process = _CONTEXT.Process(target=_hold, args=(run, ready))
    process.start()
    try:
        assert ready.wait(240)
        yield
    finally:
        process.kill()
        process.join()


def _run(arguments: Sequence[str], errors: Path, environment: Mapping[str, str], largest_file: int | None) -> None:
    os.environ.update(environment)
    # Ctrl-C interrupts it even where the tests run in the background, whose processes inherit that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with errors.open("ab") as file:
        os.dup2(file.fileno(), 2)
    if largest_file is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    from tailora import cli

    sys.exit(cli.main(list(arguments)))


def _hold(run: Path, ready: Event) -> None:
    from tailora.training.resume import ResumeFolder

    with ResumeFolder(run):
        ready.set()
        time.sleep(600)
