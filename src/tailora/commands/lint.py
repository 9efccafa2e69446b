"""`tailora lint`: what a file or data set holds, and what looks wrong in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator
from rich.console import Console
from rich.table import Table

from tailora.core.errors import CheckError, SettingsError
from tailora.data import records as record_files
from tailora.data.linearize import linearize
from tailora.data.lint import KINDS, LintReport, lint
from tailora.data.reading import ReadingSettings

_BAR = 40  # characters of the longest bar


class LintSettings(ReadingSettings):
    """Settings of `tailora lint`."""

    first = "data"
    data: str
    """Records: a file, a folder of splits, or the name of a data set."""
    allow: tuple[str, ...] = ()
    """Kinds of findings to let pass, as the table calls them; `all` for every one."""
    show: int = Field(5, ge=0)
    """Findings to show of each kind."""

    @field_validator("allow")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for kind in value:
            if kind not in KINDS and kind != "all":
                hint = f"use all, or some of {', '.join(KINDS)}"
                raise SettingsError(f"there is no finding called {kind!r}", where="allow", hint=hint)
        return value


def run(settings: LintSettings) -> dict[str, Any]:
    """Read everything, count it, and report what looks wrong; nothing is changed.

    Raises:
        CheckError: something looks wrong that `allow` does not let pass.
        DataError: the data cannot be read.
    """
    names: tuple[str | None, ...] = record_files.splits(settings.data) or (None,)
    files = {name or "all": settings.load(settings.data, name, texts="optional") for name in names}
    read = {name: data.records for name, data in files.items()}
    listed = frozenset[str]().union(*(data.listed for data in files.values()))
    report = lint(read if len(read) > 1 else next(iter(read.values())), listed=listed)
    splits = {
        name: {"records": len(records), "texts": sum(len(record.references) for record in records)}
        for name, records in read.items()
    }
    result = {
        "splits": splits,
        "records": report.records,
        "texts": report.texts,
        "lengths": dict(report.lengths),
        "findings": report.counts(),
        "notes": [note for data in files.values() for note in data.notes],
    }
    first = next(iter(read.values()))[0]
    _tell(splits, first.prompt if first.prompt is not None else linearize(first), report, settings.show)
    refused = {kind: count for kind, count in report.counts().items() if not {kind, "all"} & set(settings.allow)}
    if refused:
        counts = ", ".join(f"{kind}: {count:,}" for kind, count in refused.items())
        hint = "look at them, then let kinds pass with --allow"
        raise CheckError(
            f"{sum(refused.values()):,} findings ({counts})", where=settings.data, hint=hint, result=result
        )
    return result


def _tell(splits: Mapping[str, Mapping[str, int]], example: str, report: LintReport, show: int) -> None:
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for name, counts in splits.items():
        say(f"{name}: {counts['records']:,} records, {counts['texts']:,} texts")
    say(f"the first: {example}")
    most = max(report.lengths.values(), default=1)
    say("\nwords of a text:")
    for words, count in report.lengths.items():
        say(f"{words:>9} {'█' * round(_BAR * count / most)}{' ' if count else ''}{count:,}")
    if not report.findings:
        say("\nnothing looks wrong")
        return
    table = Table("looks wrong")
    table.add_column("how often", justify="right")
    table.add_column("what it is")
    for kind, count in report.counts().items():
        table.add_row(kind, f"{count:,}", KINDS[kind])
    console.print(table)
    for kind in report.counts():
        say(f"\n{kind}:")
        for finding in [each for each in report.findings if each.kind == kind][:show]:
            say(f"  {finding.record}: {finding.detail}")
