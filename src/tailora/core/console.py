"""The console that messages and tables are printed on, and whether it can draw progress; tables as text."""

from __future__ import annotations

import io
import sys

from rich.console import Console, RenderableType

NO_LIMIT = 100_000
"""Width, in columns, of a console that is not a terminal: no message and no table is that wide."""


def message_console(*, quiet: bool = False) -> Console:
    """Return a console on standard error. In a file or pipe, nothing that is printed on it is wrapped.

    Texts are printed as they are: a path or a value such as `[/b]` is not markup, and `:cat:` is not a picture.

    Args:
        quiet: whether nothing is printed at all.
    """
    console = Console(stderr=True, quiet=quiet, markup=False, emoji=False)
    if not (console.is_terminal or console.is_jupyter):
        console.width = NO_LIMIT
    return console


def as_text(shown: RenderableType) -> str:
    """Return tables and the like as text of 100 columns, with lines that standard output has letters for.

    On Windows, standard output in a file or pipe has the letters of a code page.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=100, force_jupyter=False, color_system=None)
    with console.capture() as captured:
        console.print(shown)
    return captured.get().rstrip()


def draws_progress(console: Console) -> bool:
    """Return whether a progress bar can be drawn: in a terminal and in a notebook, not in a file or pipe."""
    return console.is_terminal or console.is_jupyter
