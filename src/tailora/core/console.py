"""Where progress is drawn."""

from __future__ import annotations

from rich.console import Console


def draws_progress(console: Console) -> bool:
    """Whether a progress bar can be drawn: in a terminal and in a notebook, not in a file or pipe."""
    return console.is_terminal or console.is_jupyter
