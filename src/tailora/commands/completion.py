"""`tailora completion`: a script that completes commands, flags and their values in a shell."""

from __future__ import annotations

from typing import Any, get_args

from tailora.commands import COMMANDS, settings_class
from tailora.core.completion import Completions, Shell, flags_of, script
from tailora.core.settings import Settings


class CompletionSettings(Settings):
    """Settings of `tailora completion`."""

    first = "shell"
    shell: Shell
    """Shell that the script is for."""


def run(settings: CompletionSettings) -> dict[str, Any]:
    """Print the script and return it."""
    known = [
        Completions(name, command.summary, flags_of(settings_class(name)), _first(name))
        for name, command in COMMANDS.items()
    ]
    text = script(settings.shell, known)
    print(text, end="")
    return {"shell": settings.shell, "script": text}


def _first(name: str) -> tuple[str, ...]:
    """The words that an argument without a flag can be; other commands take a file."""
    if name == "completion":
        return get_args(Shell)
    return tuple(COMMANDS) if name == "schema" else ()
