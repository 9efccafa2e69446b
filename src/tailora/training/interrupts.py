"""Ctrl-C and SIGTERM during a run: both interrupt it, and neither in the middle of an update."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Self


class Interrupts:
    """Turns SIGINT and SIGTERM into `KeyboardInterrupt`, held back while an update is made; a second one is not.

    A context manager. SIGTERM is how schedulers end a job. Outside the main thread, where Python allows no signal
    handlers, and for a signal that is ignored, as in a shell's background jobs, nothing is changed.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._is_held = self._is_pending = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold an interrupt back until the end of the context."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt

    def _interrupt(self, *_: object) -> None:
        if self._is_held and not self._is_pending:
            self._is_pending = True
            return
        self._is_pending = False
        raise KeyboardInterrupt
