"""The console that messages and tables are printed on, and whether it can draw progress."""

from __future__ import annotations

from rich.console import Console

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


def draws_progress(console: Console) -> bool:
    """Return whether a progress bar can be drawn: in a terminal and in a notebook, not in a file or pipe."""
    return console.is_terminal or console.is_jupyter
