"""What `tailora lint` reports of a data set in addition to its findings, and its HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tailora.core.plural import plural
from tailora.data.attribute_values import AttributeValues, attribute_values
from tailora.data.lint import KINDS, Finding, LintReport, lint, record_name
from tailora.data.records import DataFile
from tailora.data.row_selection import RowsRead
from tailora.data.values import Record
from tailora.evaluation.marked_items import marked_item
from tailora.metrics.said_values import said_shares
from tailora.metrics.slots import slot_report
from tailora.reports.data_check import FindingExample, FindingKind, data_check_page
from tailora.reports.tables import Table

ALL = "all"
"""In place of the name of a split, for data without splits."""
_ATTRIBUTES = 25  # attributes that the page shows at once


@dataclass(frozen=True)
class DataCheck:
    """The result of checking a data set.

    Attributes:
        splits: the records of each split, or of `ALL`.
        report: the findings.
        attributes: the values of each attribute, the most frequent attributes first.
        said: for each attribute, the share of facts that the texts say.
        searched: number of texts that were searched for values.
        notes: on how the files were read.
        selected: of each split of which only a sample was read, which rows.
    """

    splits: Mapping[str, Sequence[Record]]
    report: LintReport
    attributes: Mapping[str, AttributeValues]
    said: Mapping[str, float]
    searched: int
    notes: Sequence[str]
    selected: Mapping[str, RowsRead]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """The number of records and of texts of each split."""
        return {
            name: {"records": len(records), "texts": sum(len(record.references) for record in records)}
            for name, records in self.splits.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Return the counts, for `--json`."""
        return {
            "splits": self.counts,
            "records": self.report.records,
            "texts": self.report.texts,
            "lengths": dict(self.report.lengths),
            "findings": self.report.counts(),
            "attributes": {
                name: {
                    "facts": values.facts,
                    "values": values.values,
                    "said": self.said.get(name),
                    "known": dict(values.known),
                }
                for name, values in self.attributes.items()
            },
            "texts_searched": self.searched,
            "rows_read": {name: {"rows": read.rows, "count": read.count} for name, read in self.selected.items()},
            "notes": list(self.notes),
        }

    def attribute_table(self, most: int | None = None) -> tuple[list[str], list[list[str]]]:
        """Return the columns and the rows of the table of attributes, at most `most` of them."""
        first, *others = self.splits
        head = ["attribute", "facts", "values", "said", *(f"{split} values in {first}" for split in others)]
        rows = [
            [
                name,
                f"{values.facts:,}",
                f"{values.values:,}",
                _percent(self.said.get(name)),
                *(_percent(values.known.get(split)) for split in others),
            ]
            for name, values in list(self.attributes.items())[:most]
        ]
        return head, rows


def check_data(files: Mapping[str, DataFile]) -> DataCheck:
    """Check the files of the splits of a data set, or a single one under the name `ALL`; nothing is changed."""
    splits = {name: data.records for name, data in files.items()}
    listed = frozenset[str]().union(*(data.listed for data in files.values()))
    everything = [record for records in splits.values() for record in records]
    said, searched = said_shares(everything)
    return DataCheck(
        splits,
        lint(splits if list(splits) != [ALL] else splits[ALL], listed=listed),
        attribute_values(splits),
        said,
        searched,
        [note for data in files.values() for note in data.notes],
        {name: data.selected for name, data in files.items() if data.selected is not None},
    )


def check_html(check: DataCheck, source: str, show: int) -> str:
    """Return the HTML page of a check.

    Args:
        check: the result.
        source: the data, for the title.
        show: number of examples for each kind of finding.
    """
    report = check.report
    names = {
        record_name(record, None if split == ALL else split): record
        for split, records in check.splits.items()
        for record in records
    }
    kinds = [
        FindingKind(kind, count, KINDS[kind], [_example(finding, names) for finding in _first(report, kind, show)])
        for kind, count in report.counts().items()
    ]
    about = [
        f"{plural(report.records, 'record')}, {plural(report.texts, 'text')}, "
        f"{plural(sum(report.counts().values()), 'finding')}.",
        *(f"{read.sentence}; findings are counted in these." for read in check.selected.values()),
        *check.notes,
    ]
    counts = [[name, f"{own['records']:,}", f"{own['texts']:,}"] for name, own in check.counts.items()]
    tables: list[Table] = [("Records", ["split", "records", "texts"], counts)] if len(counts) > 1 else []
    folded: list[Table] = []
    if check.attributes:
        heading = f"Attributes (said: share of the facts that {plural(check.searched, 'text')} say)"
        head, rows = check.attribute_table()
        tables.append((heading, head, rows[:_ATTRIBUTES]))
        if more := rows[_ATTRIBUTES:]:
            folded.append((plural(len(more), "more attribute"), head, more))
    return data_check_page(f"Data check: {source}", about, kinds, tables, folded, report.lengths)


def _first(report: LintReport, kind: str, show: int) -> list[Finding]:
    return [finding for finding in report.findings if finding.kind == kind][:show]


def _example(finding: Finding, records: Mapping[str, Record]) -> FindingExample:
    record = records.get(finding.record)
    if record is None or not (record.facts or record.references):
        return FindingExample(finding.record, finding.detail, None)
    text = finding.text if finding.text is not None else next(iter(record.references), "")
    others = [other for other in record.references if other != text][:2] if finding.text is None else []
    item = marked_item(record, text, slot_report(record, text), references=others, note=finding.detail)
    return FindingExample(finding.record, finding.detail, replace(item, id=finding.record))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"
