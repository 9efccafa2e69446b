"""Processes of `tailora` for tests.

On Linux they are forked from a process that has imported what they need, which takes a fraction of a second.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def run_together(size: int, target: Callable[..., object], *arguments: Any, errors: Path) -> list[int | None]:
    """Run a function in several processes that know of each other as those of torchrun; return their exit codes.

    Args:
        size: number of processes.
        target: the function, of a module that they import.
        arguments: its arguments.
        errors: the file that standard error goes to.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(size))
    environments = [
        os.environ | common | sizes | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(size)
    ]
    processes = [
        _CONTEXT.Process(target=_join, args=(target, arguments, dict(environment), errors))
        for environment in environments
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


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


def _join(
    target: Callable[..., object], arguments: Sequence[Any], environment: Mapping[str, str], errors: Path
) -> None:
    os.environ.update(environment)
    with errors.open("ab") as file:
        os.dup2(file.fileno(), 2)
    target(*arguments)


def _hold(run: Path, ready: Event) -> None:
    from tailora.training.resume import ResumeFolder

    with ResumeFolder(run):
        ready.set()
        time.sleep(600)
