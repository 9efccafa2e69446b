"""Errors that the user can fix: one line that says what is wrong, where, and what to do.

Our own bugs are plain exceptions and assertions. Everything that a user can cause is a `UserError`,
and `EXIT_CODE` and `HTTP_STATUS` are the one table from its kinds to what callers of the command line
and of the server see.
"""

from __future__ import annotations

from os import PathLike
from typing import Any


class UserError(Exception):
    """Something the user can put right.

    Args:
        what: what is wrong, in one clause without a full stop.
        where: the file (and line), flag or key in which it stands.
        hint: what to do about it, in one clause.
    """

    def __init__(self, what: str, *, where: str | PathLike[str] | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text}; {self.hint}" if self.hint else text
        return " ".join(text.split())


class SettingsError(UserError):
    """A flag, a configuration key or a combination of them that cannot be."""


class DataError(UserError):
    """A data file that cannot be read as what it is said to be."""


class ModelError(UserError):
    """A base model that cannot be found, loaded or used."""


class OfflineError(ModelError):
    """A hub or a download that cannot be reached."""


class AdapterError(UserError):
    """An adapter that cannot be read, or does not belong to the base it is asked to sit on."""


class TrainingError(UserError):
    """A training run that cannot start or cannot learn."""


class MissingExtraError(UserError):
    """An optional dependency that is not installed."""


class CheckError(UserError):
    """Something that was checked and did not pass.

    Attributes:
        result: what was measured, as the verb would have returned it.
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


EXIT_CODE: dict[type[BaseException], int] = {UserError: 2, KeyboardInterrupt: 130, Exception: 1}
HTTP_STATUS: dict[type[UserError], int] = {
    OfflineError: 503,
    MissingExtraError: 501,
    AdapterError: 409,
    ModelError: 404,
    UserError: 400,
}
