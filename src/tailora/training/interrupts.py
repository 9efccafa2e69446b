"""Ctrl-C and SIGTERM during a run: both interrupt it, between two updates."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Self


class Interrupts:
    """A context manager that turns SIGINT and SIGTERM into `KeyboardInterrupt`, deferred until an update is complete.

    A second signal interrupts at once. SIGTERM is how schedulers end a job. Nothing changes outside the main thread,
    where Python allows no signal handlers, for a signal that is ignored, as in a shell's background jobs, or for one
    that another language handles, as R does around reticulate: Python could not give it back.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._is_deferring = self._is_recording = self._is_pending = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._handlers[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer an interrupt to the end of the context."""
        self._is_deferring = True
        try:
            yield
        finally:
            self._is_deferring = False
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record interrupts in `is_pending` inside the context, where none is raised."""
        self._is_recording = True
        try:
            yield
        finally:
            self._is_recording = self._is_pending = False

    def is_pending(self) -> bool:
        """Whether an interrupt has been deferred or recorded."""
        return self._is_pending

    def _interrupt(self, *_: object) -> None:
        if self._is_recording or (self._is_deferring and not self._is_pending):
            self._is_pending = True
            return
        self._is_pending = False
        raise KeyboardInterrupt
