"""`tailora train` as one process of `test_distributed`, which something happens to after an update.

EVENT in the environment is RANK:STEP:WHAT, where WHAT is a signal's name or `error`; without it, nothing happens.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tailora.cli import main
from tailora.training import precision_choice
from tailora.training.run_report import RunObserver, SilentObserver


def strike(kind: type[RunObserver] | type[SilentObserver], step: int, what: str) -> None:
    original: Any = kind.step

    def struck(self: Any, line: dict[str, Any]) -> None:
        original(self, line)
        if line["step"] != step:
            return
        if what == "error":
            raise RuntimeError("out of order")
        target = os.getppid() if what.startswith("torchrun ") else os.getpid()
        os.kill(target, signal.Signals[what.removeprefix("torchrun ")])

    kind.step = struck  # type: ignore[method-assign]


if __name__ == "__main__":
    precision_choice.SHORT = 0  # time the precisions of the shortest run as well
    if event := os.environ.get("EVENT"):
        rank, step, what = event.split(":")
        if rank == os.environ["RANK"]:
            strike(RunObserver if rank == "0" else SilentObserver, int(step), what)
    sys.exit(main())
