"""Errors read as one line: where, what, hint; and each kind has its exit code and HTTP status."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.core import errors
from tailora.core.errors import (
    EXIT_CODE,
    HTTP_STATUS,
    AdapterError,
    CheckError,
    DataError,
    OfflineError,
    UserError,
)
from tailora.core.problems import InvalidSettingsError, Problem

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UserError)]


def test_place_what_and_mend_stand_in_this_order() -> None:
    error = DataError("the text is empty", where=Path("data") / "e2e.csv", hint="drop the row")
    assert str(error) == f"{Path('data') / 'e2e.csv'}: the text is empty; drop the row"


@pytest.mark.parametrize(
    ("where", "hint", "text"),
    [(None, None, "wrong"), ("--x", None, "--x: wrong"), (None, "correct it", "wrong; correct it")],
)
def test_what_is_not_known_is_left_out(where: str | None, hint: str | None, text: str) -> None:
    assert str(UserError("wrong", where=where, hint=hint)) == text


@given(st.text(), st.none() | st.text(), st.none() | st.text())
def test_an_error_is_one_line(what: str, where: str | None, hint: str | None) -> None:
    assert len(str(UserError(what, where=where, hint=hint)).splitlines()) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_users_and_has_a_status(kind: type[UserError]) -> None:
    assert next(code for base, code in EXIT_CODE.items() if issubclass(kind, base)) == 2
    assert 400 <= next(status for base, status in HTTP_STATUS.items() if issubclass(kind, base)) < 600


def test_narrower_kinds_come_before_wider_ones() -> None:
    for table in (EXIT_CODE, HTTP_STATUS):
        kinds = list(table)
        for i, kind in enumerate(kinds):
            assert not any(issubclass(later, kind) and later is not kind for later in kinds[i + 1 :])


def test_adapter_and_hub_have_their_own_status() -> None:
    assert (HTTP_STATUS[AdapterError], HTTP_STATUS[OfflineError]) == (409, 503)


def test_errors_are_passed_between_processes() -> None:
    """A process pool pickles the error of its task, and so do joblib and Ray."""
    problems = InvalidSettingsError([Problem("rank", "is wrong", "correct it")], lambda field: f"--{field}")
    check = CheckError("it differs", where="model", hint="merge again", result={"drift": 0.5})
    for error in (DataError("the text is empty", where="x.csv:3", hint="drop the row"), check, problems):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert (str(copy), vars(copy)) == (str(error), vars(error))
