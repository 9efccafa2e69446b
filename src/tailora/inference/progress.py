"""The progress bar of text generation."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tailora.core.console import draws_progress


class WritingProgress:
    """A progress bar on stderr that shows tokens per second. It is drawn only if stderr is a terminal."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._progress = Progress(
            TextColumn("generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not draws_progress(console),
        )
        self._task = self._progress.add_task("", total=total, completed=done, speed=0.0)
        self._start = time.perf_counter()
        self._tokens = 0

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return self._report

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def _report(self, prompts: int, tokens: int) -> None:
        self._tokens += tokens
        speed = self._tokens / max(time.perf_counter() - self._start, 1e-9)
        self._progress.update(self._task, advance=prompts, speed=speed)
