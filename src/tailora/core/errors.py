"""Errors that the user can fix. Each one says in one line what is wrong, where it is, and what to do.

Every error that a user can cause is a `UserError`; bugs in Tailora raise other exceptions. `EXIT_CODE` and
`HTTP_STATUS` map the types to exit codes of the command line and to status codes of the server.
"""

from __future__ import annotations

import re
from os import PathLike
from typing import Any

_LONGEST = 3000  # characters of a clause
_KEPT = 60  # characters at each end of a word that is cut
_LONG_WORD = re.compile(r"\S{400,}")


class UserError(Exception):
    """An error that the user can fix.

    Args:
        what: what is wrong, in one clause without a full stop.
        where: the file (and line), the flag or the key that is wrong.
        hint: what the user can do about it, in the imperative.
    """

    def __init__(self, what: str, *, where: str | PathLike[str] | None = None, hint: str | None = None) -> None:
        self.what = _shortened(what)
        self.where = None if where is None else str(where)
        self.hint = None if hint is None else _shortened(hint)
        super().__init__(self.what)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle every subclass, whatever its constructor takes: process pools pass errors on."""
        return _unpickled, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text}; {self.hint}" if self.hint else text
        return " ".join(text.split())


def _shortened(text: str) -> str:
    """Cut what a message quotes from a file to a length that can be read."""
    text = _LONG_WORD.sub(lambda word: f"{word[0][:_KEPT]} … {word[0][-_KEPT:]}", text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - _KEPT]} … {text[-_KEPT:]}"


def _unpickled(kind: type[UserError], arguments: tuple[Any, ...], state: dict[str, Any]) -> UserError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class SettingsError(UserError):
    """An invalid flag, configuration key or combination of them."""


class DataError(UserError):
    """A data file that cannot be read in its format, or whose content cannot be used."""


class ModelError(UserError):
    """A base model that cannot be found, loaded or used."""


class OfflineError(ModelError):
    """A hub or a download that cannot be reached."""


class AdapterError(UserError):
    """An adapter that cannot be read, or that does not belong to the base model."""


class TrainingError(UserError):
    """A training run that cannot start or cannot learn."""


class MissingExtraError(UserError):
    """An optional dependency that is not installed."""


class CheckError(UserError):
    """A check that failed.

    Attributes:
        result: the measurements, as the command returns them if the check passes.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | PathLike[str] | None = None,
        hint: str | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.result = result or {}


def unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file cannot be read, for the `what` of a `UserError`."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text"
    return f"cannot be read ({error.strerror or error})"


EXIT_CODE: dict[type[BaseException], int] = {UserError: 2, KeyboardInterrupt: 130, Exception: 1}
HTTP_STATUS: dict[type[UserError], int] = {
    OfflineError: 503,
    MissingExtraError: 501,
    AdapterError: 409,
    ModelError: 404,
    UserError: 400,
}
