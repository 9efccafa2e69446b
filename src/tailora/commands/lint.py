"""`tailora lint`: count what a file or data set holds, and report what looks wrong in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.errors import CheckError
from tailora.core.plural import plural
from tailora.core.problems import FieldError
from tailora.core.settings import Unset
from tailora.data.linearize import linearize
from tailora.data.lint import KINDS, LintReport, lint
from tailora.data.reading import ReadingSettings
from tailora.data.records import splits as splits_of

_BAR = 40  # characters of the longest bar


class LintSettings(ReadingSettings):
    """Settings of `tailora lint`."""

    heading = "checks"
    headings: ClassVar = {"data": "data"}
    first = "data"
    data: str
    """Records: a file, a folder of splits, or the name of a data set."""
    allow: Annotated[tuple[str, ...], Unset("none")] = ()
    """Kinds of findings to accept, by their names in the table and separated by commas, or all."""
    show: int = Field(5, ge=0)
    """Number of findings to print for each kind."""

    @field_validator("allow")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for kind in value:
            if kind not in KINDS and kind != "all":
                raise FieldError(f"{kind!r} is not a kind of finding", f"use all, or some of {', '.join(KINDS)}")
        return value


def run(settings: LintSettings) -> dict[str, Any]:
    """Read all records, count them, and report what looks wrong; nothing is changed.

    Returns:
        Counts of records, texts and findings, and notes on how the files were read.

    Raises:
        CheckError: something looks wrong that `allow` does not accept.
        DataError: the data cannot be read.
    """
    names: tuple[str | None, ...] = splits_of(settings.data) or (None,)
    files = {name or "all": settings.load(settings.data, name, texts="optional") for name in names}
    by_split = {name: data.records for name, data in files.items()}
    listed = frozenset[str]().union(*(data.listed for data in files.values()))
    report = lint(by_split if len(by_split) > 1 else next(iter(by_split.values())), listed=listed)
    splits = {
        name: {"records": len(records), "texts": sum(len(record.references) for record in records)}
        for name, records in by_split.items()
    }
    result = {
        "splits": splits,
        "records": report.records,
        "texts": report.texts,
        "lengths": dict(report.lengths),
        "findings": report.counts(),
        "notes": [note for data in files.values() for note in data.notes],
    }
    first = next(iter(by_split.values()))[0]
    _show(splits, first.prompt if first.prompt is not None else linearize(first), report, settings.show)
    refused = {kind: count for kind, count in report.counts().items() if not {kind, "all"} & set(settings.allow)}
    if refused:
        counts = ", ".join(f"{kind}: {count:,}" for kind, count in refused.items())
        what = f"{plural(sum(refused.values()), 'finding')} ({counts})"
        hint = "correct the data, or accept kinds of findings with --allow"
        raise CheckError(what, where=settings.data, hint=hint, result=result)
    return result


def _show(splits: Mapping[str, Mapping[str, int]], example: str, report: LintReport, show: int) -> None:
    """Print the counts, the first record's prompt, the lengths and the findings."""
    console = message_console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for name, counts in splits.items():
        say(f"{name}: {plural(counts['records'], 'record')}, {plural(counts['texts'], 'text')}")
    say(f"first record: {example}")
    most = max(report.lengths.values(), default=1)
    if report.lengths:
        say("\nwords per text:")
    for words, count in report.lengths.items():
        say(f"{words:>9} {'█' * round(_BAR * count / most)}{' ' if count else ''}{count:,}")
    if not report.findings:
        say("\nno findings")
        return
    table = Table("finding")
    table.add_column("count", justify="right")
    table.add_column("meaning")
    for kind, count in report.counts().items():
        table.add_row(kind, f"{count:,}", KINDS[kind])
    console.print(table)
    for kind in report.counts():
        say(f"\n{kind}:")
        for finding in [finding for finding in report.findings if finding.kind == kind][:show]:
            say(f"  {finding.record}: {finding.detail}")
