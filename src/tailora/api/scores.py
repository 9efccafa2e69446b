"""`tailora.evaluate`: scores of texts in memory or in files, shown as a table in a terminal and in a notebook."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from tailora.api.inputs import Source, is_place, read_data
from tailora.api.system_scores import SystemScores
from tailora.core.console import as_text
from tailora.core.errors import DataError
from tailora.core.files import write_text
from tailora.core.plural import plural
from tailora.data.reading import ReadingSettings
from tailora.data.system_texts import InputRows, read_texts
from tailora.data.values import Record
from tailora.evaluation.groups import Division, groups_of, spread
from tailora.evaluation.parts import TrainingData, parts_of
from tailora.evaluation.report import report_html, score_rows
from tailora.evaluation.scoring import Evaluation, Scoring
from tailora.evaluation.systems_comparison import compare_systems
from tailora.metrics.statistics import Score, Test
from tailora.metrics.suite import METRICS, MetricName
from tailora.metrics.tokenizers import TokenizerName

Texts = Sequence[str] | str | os.PathLike[str]


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Mapping[str, Score]):
    """Scores by the metrics' names: `scores["bleu"].value`.

    Values are fractions or the metric's own unit, as in scores.json; tables show them as papers print them.

    Attributes:
        records: how many texts were scored.
        result: the content of scores.json.
        against: metric to the difference from another system's texts; None where there are none.
        groups: the content of groups.json: scores of groups of records, by "category", "facts" and "entities".
    """

    records: int
    result: dict[str, Any]
    against: Mapping[str, Any] | None
    groups: Mapping[str, Any]
    _scores: Mapping[str, Score]
    _table: tuple[tuple[str, str, str], ...]
    _page: str

    def __getitem__(self, name: str) -> Score:
        return self._scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report page, with the worst texts and their slot errors, to an HTML file; return its path."""
        write_text(path, self._page)
        return Path(path)

    def __repr__(self) -> str:
        return as_text(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title=plural(self.records, "record"))
        for heading in ("score", "value", "95% interval"):
            table.add_column(heading, justify="left" if heading == "score" else "right")
        for row in self._table:
            table.add_row(*map(escape, row))
        yield table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in ("score", "value", "95% interval"))
        rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self._table)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><caption>{plural(self.records, 'record')}</caption><tr>{head}</tr>{body}</table>"


class EvaluateOptions(TypedDict, total=False):
    """Optional arguments of `evaluate`, which describes them."""

    split: str | None
    against: Texts | None
    metrics: Sequence[MetricName] | MetricName
    tokenizer: TokenizerName | None
    slot_rules: str | os.PathLike[str] | None
    train: str | os.PathLike[str] | None
    by: Sequence[Division] | None
    draws: int
    test: Test
    show: int | None
    format: str | None
    columns: Mapping[str, Any] | None
    language: str | None
    all_texts: bool


@overload
def evaluate(texts: Texts, records: Source, **options: Unpack[EvaluateOptions]) -> Scores: ...


@overload
def evaluate(texts: Mapping[str, Texts], records: Source, **options: Unpack[EvaluateOptions]) -> SystemScores: ...


def evaluate(
    texts: Texts | Mapping[str, Texts],
    records: Source,
    *,
    split: str | None = None,
    against: Texts | None = None,
    metrics: Sequence[MetricName] | MetricName = (),
    tokenizer: TokenizerName | None = None,
    slot_rules: str | os.PathLike[str] | None = None,
    train: str | os.PathLike[str] | None = None,
    by: Sequence[Division] | None = None,
    draws: int = 1000,
    test: Test = "bootstrap",
    show: int | None = None,
    **reading: Any,
) -> Scores | SystemScores:
    """Score one text for each record, as `tailora evaluate` does; of several systems, compare every pair.

    Args:
        texts: one for each record, in their order, or a file of them, or the output folder of an evaluation. For
            several systems, a mapping of their names to these.
        records: with references; with facts for the slot error rate: `Record`s, dictionaries, a data frame, a file or
            the name of a data set. Rows with equal facts are one record.
        split: of a folder or a data set's name.
        against: another system's texts for the same records, to compare with.
        metrics: names; by default those that the field reports of such records.
        tokenizer: a sacrebleu tokenizer for the metrics that count tokens; by default the official scripts' own.
        slot_rules: file of rules on how texts express values, in addition to the bundled ones.
        train: data that the system was trained on, for "parent_c" and for seen and unseen parts; by default the train
            split of the records' source, if it has one.
        by: divisions of the records whose groups are scored separately, as `--by`; by default all that the data have.
        draws: resamples of the records that the 95% intervals come from.
        test: test of differences between systems: "bootstrap" or "randomisation".
        show: records in the report page, the worst first; by default 50, and up to 1,000 for several systems.
        reading: `format`, `columns`, `language` and `all_texts`; see `tailora.read_records`.

    Returns:
        The scores: `Scores` of one system, `SystemScores` of several.

    Raises:
        DataError: texts and records do not belong together, or a record has no reference.
        MissingExtraError: no metric that was asked for can be computed on this machine.
    """
    data = read_data(records, split=split, texts="required", **reading)
    names: Sequence[MetricName] = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise DataError(f"there is no metric {unknown[0]!r}", where="metrics", hint=f"choose from {', '.join(METRICS)}")
    rules = None if slot_rules is None else Path(slot_rules)
    scored, rows = list(data.records), InputRows.of(data)
    source, elsewhere = os.fspath(records) if is_place(records) else None, None if train is None else os.fspath(train)
    training = TrainingData(source, ReadingSettings.from_values(reading), train=elsewhere)
    known = training.examples if "parent_c" in names and training.is_known else None
    scoring = Scoring(scored, names, tokenizer=tokenizer, slot_rules=rules, draws=draws, training=known)
    parts, groups = parts_of(scored, training), groups_of(scored, training, by)
    several = isinstance(texts, Mapping)
    named: dict[str, Texts | None] = dict(texts) if isinstance(texts, Mapping) else {"texts": texts, "against": against}
    if several and (against is not None or not named):
        what = "is empty" if not named else "has several systems, which are all compared with each other"
        raise DataError(what, where="texts", hint="name one system or more" if not named else "leave out against")
    systems = {name: _texts(own, scored, rows, name) for name, own in named.items() if own is not None}
    if any(len(own) != len(scored) for own in systems.values()):
        # Rows of one record have different texts: each is scored against all references of its record.
        systems = {name: rows.spread(own) for name, own in systems.items()}
        scored, parts = rows.spread(scored), {name: rows.numbers(numbers) for name, numbers in parts.items()}
        groups = spread(groups, rows)
    about = [f"{len(scored)} records"]
    if several:
        comparison = compare_systems(scoring, scored, systems, parts, test=test, groups=groups)
        return SystemScores.of(comparison, about, 1000 if show is None else show)
    own, other = systems["texts"], systems.get("against")
    evaluation = scoring.evaluate(scored, own, parts, other, test=test, groups=groups)
    return _scores(evaluation, report_html(evaluation, about, [], 50 if show is None else show))


def _texts(texts: Texts, records: Sequence[Record], rows: InputRows, where: str) -> list[str]:
    """One text for each record, or one for each row where rows of one record have different texts."""
    if isinstance(texts, str | os.PathLike):
        return read_texts(_file_of(Path(texts), where), [record.id for record in records], rows=rows)
    values = list(texts)
    wrong = next((number for number, text in enumerate(values) if not isinstance(text, str)), None)
    if wrong is not None:
        what = f"is of type {type(values[wrong]).__name__}, not a text"
        raise DataError(what, where=f"{where}[{wrong}]", hint="give a list of strings")
    if len(values) == len(records):
        return [str(text) for text in values]
    if len(values) == len(rows.ids):
        return rows.gathered([str(text) for text in values])
    counts = f"{len(records)} records" + (f" ({len(rows.ids)} rows)" if len(rows.ids) != len(records) else "")
    raise DataError(f"{len(values)} texts for {counts}", where=where, hint="give one text for each record or row")


def _file_of(path: Path, where: str) -> Path:
    """Return a file of texts, or the one in the output folder of an evaluation."""
    if not path.is_dir():
        return path
    if (path / "outputs.jsonl").is_file():
        return path / "outputs.jsonl"
    hint = "write the texts of a model with `tailora.load(…).generate`, or use `tailora evaluate`"
    raise DataError(f"{path} is a folder without outputs.jsonl", where=where, hint=hint)


def _scores(evaluation: Evaluation, page: str) -> Scores:
    table = tuple((row.name, row.value, row.interval or row.how) for row in score_rows(evaluation, "all"))
    return Scores(
        len(evaluation.records),
        evaluation.as_json()["all"],
        evaluation.against,
        evaluation.groups_as_json(),
        evaluation.scores["all"],
        table,
        page,
    )
