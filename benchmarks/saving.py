"""The share of a training run that is spent on saving what it needs to be continued, for LoRA and full fine-tuning.

    python benchmarks/saving.py --base smollm2-135m --limit 1000 --max-steps 300

The run itself counts the seconds of its updates, and of saving states and the results of its best validations. A state
is saved before the first update, every five minutes (`--save-every`), and after validations. The time of validations is
not counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from _processes import run_tailora, say
from tailora.core.hardware.machine import describe
from tailora.core.hardware.processor import cores

SHARED = Path(__file__).resolve().parents[2] / "shared"


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print."""
    arguments, flags = parse(argv)
    table = Table("method", "updates", "minutes of updates", "seconds of saving", "share", box=None)
    arms = []
    for method in arguments.methods:
        arms.append(measure(arguments, method, flags))
        say(json.dumps(arms[-1]))
        updates, saving = arms[-1]["seconds"], arms[-1]["saving_seconds"]
        row = [method, f"{arms[-1]['updates']}", f"{updates / 60:.1f}", f"{saving:.2f}", f"{arms[-1]['share']:.2%}"]
        table.add_row(*row)
    Console(stderr=True, width=120).print(table)
    if arguments.json:
        print(json.dumps({"benchmark": "saving", "machine": describe(), "arms": arms}, indent=2))


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Read the flags; return those that are not the benchmark's own, which are those of `tailora train`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", default="smollm2-135m", help="name or path of the base")
    parser.add_argument("--data", default=str(SHARED / "data" / "e2e"), help="data with a split to validate on")
    parser.add_argument("--methods", nargs="+", default=["lora", "full"])
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser.parse_known_args(argv)


def measure(arguments: argparse.Namespace, method: str, flags: Sequence[str]) -> dict[str, Any]:
    """Train once; return the seconds of updates and of saving, and the share of the latter in both."""
    with tempfile.TemporaryDirectory() as folder:
        common = [f"--base={arguments.base}", f"--data={arguments.data}", f"--method={method}"]
        ran = run_tailora(["train", *common, f"--output={folder}/run", *flags], threads=arguments.threads)
    seconds, saving = ran["seconds"], ran["saving_seconds"]
    numbers = {"updates": ran["steps"], "seconds": seconds, "saving_seconds": saving}
    return {"method": method, "precision": ran["account"]["precision"], **numbers, "share": saving / (seconds + saving)}


if __name__ == "__main__":
    main()
