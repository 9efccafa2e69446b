"""Signals that interrupt a run, and those that are left to others."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tailora.training.interrupts import Interrupts


@pytest.mark.parametrize("handler", [None, signal.SIG_IGN])
def test_a_signal_that_is_ignored_or_not_pythons_is_left_alone(monkeypatch: pytest.MonkeyPatch, handler: Any) -> None:
    """`getsignal` returns None for a handler of another language, which `signal.signal` cannot set again."""
    changed: list[int] = []

    def change(number: int, handler: Callable[..., Any]) -> None:
        changed.append(number)

    monkeypatch.setattr(signal, "getsignal", lambda number: handler)
    monkeypatch.setattr(signal, "signal", change)
    with Interrupts():
        pass
    assert not changed


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
