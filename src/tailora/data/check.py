"""`tailora data`: what a file or data set holds, and what looks wrong in it."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from rich.console import Console

from tailora.data import records as record_files
from tailora.data.linearize import linearize
from tailora.data.lint import KINDS, lint
from tailora.settings import Settings


class DataSettings(Settings):
    """Settings of `tailora data`."""

    data: str
    """Records: a file, a folder of splits, or the name of a data set."""
    format: str | None = None
    """Format of the data, where it cannot be told from the file."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Which column of a table is what."""
    show: int = Field(5, ge=0)
    """Findings to show of each kind."""


def run(settings: DataSettings) -> dict[str, Any]:
    """Read everything, count it, and report what looks wrong; nothing is changed."""
    console = Console(stderr=True)
    names: tuple[str | None, ...] = record_files.splits(settings.data) or (None,)
    read = {
        name or "all": record_files.read(
            settings.data, split=name, format=settings.format, columns=settings.columns or None
        )
        for name in names
    }
    for name, records in read.items():
        texts = sum(len(record.references) for record in records)
        console.print(f"{name}: {len(records):,} records, {texts:,} texts", highlight=False)
    first = next(iter(read.values()))[0]
    example = first.prompt if first.prompt is not None else linearize(first)
    console.print(f"the first: {example}", highlight=False, markup=False)
    report = lint(read if len(read) > 1 else next(iter(read.values())))
    for kind, count in report.counts().items():
        console.print(f"\n{kind}: {count:,} ({KINDS[kind]})", highlight=False, markup=False)
        found = [finding for finding in report.findings if finding.kind == kind]
        for finding in found[: settings.show]:
            console.print(f"  {finding.record}: {finding.detail}", highlight=False, markup=False)
    return {
        "splits": {name: {"records": len(records)} for name, records in read.items()},
        "records": report.records,
        "texts": report.texts,
        "findings": report.counts(),
    }
