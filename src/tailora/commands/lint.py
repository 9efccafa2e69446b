"""`tailora lint`: count what a file or data set holds, and report what looks wrong in it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.errors import CheckError
from tailora.core.files import require_own, write_text
from tailora.core.plural import plural
from tailora.core.problems import FieldError
from tailora.core.settings import Unset
from tailora.data.linearize import linearize
from tailora.data.lint import KINDS
from tailora.data.reading import ReadingSettings
from tailora.data.records import splits as splits_of
from tailora.data.row_selection import WHOLE, RowSample
from tailora.evaluation.data_check import ALL, DataCheck, check_data, check_html

_BAR = 40  # characters of the longest bar
_ATTRIBUTES = 20  # attributes that are printed


class LintSettings(ReadingSettings):
    """Settings of `tailora lint`."""

    heading = "checks"
    headings: ClassVar = {"data": "data", "show": "output", "html": "output"}
    first = "data"
    data: str
    """Records: a file, a folder of splits, or the name of a data set."""
    allow: Annotated[tuple[str, ...], Unset("none")] = ()
    """Kinds of findings to accept, by their names in the table and separated by commas, or all."""
    show: int = Field(5, ge=0)
    """Number of findings to print for each kind, and of examples in the HTML report."""
    sample: int = Field(WHOLE, ge=1)
    """Number of rows to check of each larger table, Parquet, Arrow or JSON-lines file or data set of the hub, drawn at
    random. Files of up to 100,000 rows are always checked as a whole."""
    html: Annotated[Path | None, Unset("none")] = None
    """File for an HTML report with the counts and examples of each kind of finding."""

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
        Counts of records, texts, findings and values, and notes on how the files were read.

    Raises:
        CheckError: something looks wrong that `allow` does not accept.
        DataError: the data cannot be read.
    """
    if settings.html is not None:
        require_own(settings.html, lambda start: start.lstrip().lower().startswith(b"<!doctype html"), "an HTML page")
    names: tuple[str | None, ...] = splits_of(settings.data) or (None,)
    sample = RowSample(settings.sample, seed=0)
    load = functools.partial(settings.load, settings.data, texts="optional", selection=sample)
    check = check_data({name or ALL: load(name) for name in names})
    result, counts = check.as_json(), check.report.counts()
    _show(check, settings.show)
    if settings.html is not None:
        write_text(settings.html, check_html(check, settings.data, settings.show))
        result["html"] = str(settings.html)
    refused = {kind: count for kind, count in counts.items() if not {kind, "all"} & set(settings.allow)}
    if refused:
        listed = ", ".join(f"{kind}: {count:,}" for kind, count in refused.items())
        what = f"{plural(sum(refused.values()), 'finding')} ({listed})"
        hint = "correct the data, or accept kinds of findings with --allow"
        raise CheckError(what, where=settings.data, hint=hint, result=result)
    return result


def _show(check: DataCheck, show: int) -> None:
    """Print the counts, the first record's prompt, the lengths, the attributes and the findings."""
    console, report = message_console(), check.report

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for name, counts in check.counts.items():
        say(f"{name}: {plural(counts['records'], 'record')}, {plural(counts['texts'], 'text')}")
    first = next(iter(check.splits.values()))[0]
    say(f"first record: {first.prompt if first.prompt is not None else linearize(first)}")
    most = max(report.lengths.values(), default=1)
    if report.lengths:
        say("\nwords per text:")
    for words, count in report.lengths.items():
        say(f"{words:>9} {'█' * round(_BAR * count / most)}{' ' if count else ''}{count:,}")
    _show_attributes(check)
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


def _show_attributes(check: DataCheck) -> None:
    """Print how many values each attribute has, and what share of its facts the texts say."""
    if not check.attributes:
        return
    console = message_console()
    head, rows = check.attribute_table(_ATTRIBUTES)
    table = Table(head[0])
    for name in head[1:]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    more = len(check.attributes) - len(rows)
    if more:
        console.print(f"and {more:,} more attributes (--json or --html lists them)", highlight=False, soft_wrap=True)
