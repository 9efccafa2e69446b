"""`tailora clean`: annotate the facts of records again from their texts, and write the data in the same format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.errors import SettingsError
from tailora.core.files import atomic_path, require_new, write_text
from tailora.core.plural import plural
from tailora.core.settings import Unset, Verbatim
from tailora.data.reading import ChoiceOfSplit
from tailora.data.rewriting import rewriter_of
from tailora.data.text_files import has_bom, packed
from tailora.evaluation.cleaning import AttributeErrors, Cleaner, Cleaning, as_json
from tailora.metrics.reannotation import ErrorKind
from tailora.metrics.slot_rules import load_rules


class CleanSettings(ChoiceOfSplit):
    """Settings of `tailora clean`."""

    heading = "cleaning"
    headings: ClassVar = {"data": "data", "output": "output", "report": "output", "show": "output"}
    first = "data"
    data: str
    """Records with facts and texts: a file, a folder of splits, or the name of a data set."""
    output: Path
    """File to write, in the format of the data. It must not exist. If its name ends in .gz, .bz2 or .xz, it is
    compressed."""
    only: Annotated[ErrorKind | None, Unset("both kinds")] = None
    """Kind of error to correct: facts that the text leaves out (`missing`) or that the record lacks (`added`)."""
    keep_unsure: bool = False
    """Keep facts that the text may say in words which the rules mark as unsure."""
    keep_duplicates: bool = False
    """Keep rows with the same facts and the same text."""
    against: Annotated[tuple[str, ...], Verbatim(), Unset("none")] = ()
    """Files, such as the test set, whose records the output must not contain. Rows with the same facts, apart from
    names, are left out. The records of these files are compared as they are and as they would be cleaned."""
    keep_overlap: bool = False
    """Keep the rows that --against finds, and only count them."""
    slot_rules: Annotated[Path | None, Unset("the bundled rules")] = None
    """File of rules for how texts express values, besides the bundled ones. See docs/evaluate.md."""
    report: Annotated[Path | None, Unset("none")] = None
    """JSON lines file to write: for each text what was changed, left out or undecided. It must not exist."""
    show: int = Field(2, ge=0)
    """Number of examples to print for each attribute and kind of error."""


def run(settings: CleanSettings) -> dict[str, Any]:
    """Clean a file and print the slot errors before and after.

    Returns:
        Counts of what was done, and slot errors by attribute before and after.

    Raises:
        DataError: a file cannot be read, or its format cannot be written.
        SettingsError: an output exists.
    """
    for path in (settings.output, *([settings.report] if settings.report else [])):
        require_new(path, empty_folder=False)
    if settings.report is not None and settings.report.resolve() == settings.output.resolve():
        raise SettingsError("is the output itself", where="report", hint="give the report its own name")
    data = settings.load(settings.data, settings.split)
    rewriter = rewriter_of(data, settings.columns)
    cleaner = Cleaner(
        load_rules(settings.slot_rules),
        only=settings.only,
        keep_unsure=settings.keep_unsure,
        keep_duplicates=settings.keep_duplicates,
        keep_overlap=settings.keep_overlap,
    )
    cleaning = cleaner.clean(data, rewriter, [settings.load(source) for source in settings.against])
    with atomic_path(settings.output) as path:
        path.write_bytes(packed(cleaning.content, settings.output, bom=has_bom(data.path)))
    if settings.report is not None:
        noted = [pair for pair in cleaning.pairs if pair.outcome != "unchanged" or pair.new.undecided or pair.overlaps]
        write_text(settings.report, "".join(json.dumps(as_json(pair), ensure_ascii=False) + "\n" for pair in noted))
    _show(cleaning, settings)
    return {
        "output": str(settings.output),
        "texts": len(cleaning.pairs),
        **cleaning.outcomes(),
        "overlapping": sum(pair.overlaps for pair in cleaning.pairs),
        "undecided": sum(len(pair.new.undecided) for pair in cleaning.pairs),
        "before": _as_json(cleaning.before, cleaning.rates[0]),
        "after": _as_json(cleaning.after, cleaning.rates[1]),
    }


def _as_json(errors: Mapping[str, AttributeErrors], rate: float) -> dict[str, Any]:
    own = {name: {"facts": e.facts, "missing": e.missing, "added": e.added} for name, e in errors.items()}
    return {"error_rate": rate, "attributes": own}


def _show(cleaning: Cleaning, settings: CleanSettings) -> None:
    """Print what was done, the errors by attribute, and examples."""
    console = message_console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    counts = ", ".join(f"{name}: {count:,}" for name, count in cleaning.outcomes().items() if count)
    say(f"{plural(len(cleaning.pairs), 'text')} ({counts})")
    table = Table("attribute")
    for title in ("facts", "missing", "added", "facts after", "missing after", "added after"):
        table.add_column(title, justify="right")
    none = AttributeErrors(0, 0, 0)
    for name in dict.fromkeys([*cleaning.before, *cleaning.after]):
        pair = [errors.get(name, none) for errors in (cleaning.before, cleaning.after)]
        table.add_row(name, *(f"{count:,}" for e in pair for count in (e.facts, e.missing, e.added)))
    console.print(table)
    if settings.against:
        overlapping = sum(pair.overlaps for pair in cleaning.pairs)
        say(f"{plural(overlapping, 'text')} with facts that {', '.join(settings.against)} has, apart from names")
    before, after = (100 * rate for rate in cleaning.rates)
    say(f"slot errors: {before:.1f}% of the facts before, {after:.1f}% after")
    for title, lines in _examples(cleaning, settings.show).items():
        say(f"\n{title}:")
        for line in lines:
            say(f"  {line}")
    say(f"\nwrote {settings.output}")


def _examples(cleaning: Cleaning, show: int) -> dict[str, list[str]]:
    """Return the first texts for each attribute and kind of error, and for what is undecided."""
    examples: dict[str, list[str]] = {}

    def note(title: str, line: str) -> None:
        lines = examples.setdefault(title, [])
        if len(lines) < show:
            lines.append(line)

    for pair in cleaning.pairs:
        for kind, facts in (("missing", pair.new.dropped), ("added", pair.new.added)):
            for fact in facts:
                note(f"{kind} {fact.attribute}", f"{pair.record.id}: {fact.value}: {pair.text}")
        for item in pair.new.undecided:
            kept = "kept" if item.kept else "not kept"
            note(
                f"undecided, {item.reason}",
                f"{pair.record.id}: {item.fact.attribute}: {item.fact.value} ({kept}): {pair.text}",
            )
    return dict(sorted(examples.items())) if show else {}
