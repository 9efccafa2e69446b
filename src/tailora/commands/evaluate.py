"""`tailora evaluate`: texts for records, their scores with intervals, and a page that shows the worst of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tailora.commands.generate import DecodingSettings, GenerateSettings
from tailora.commands.generate import run as write_texts
from tailora.core.errors import DataError, SettingsError
from tailora.core.files import check_writable, write_text
from tailora.data import records as record_files
from tailora.data.reading import ReadingSettings
from tailora.data.system_texts import InputRows, read_texts
from tailora.data.values import Record
from tailora.metrics.slots import SlotReport, load_rules, slot_reports
from tailora.metrics.statistics import Score, Statistics, compare, interval
from tailora.metrics.suite import METRICS, Measured, MetricName, measure, unavailable, usual
from tailora.metrics.tokenizers import TokenizerName, sacrebleu_tokenizer
from tailora.reports.evaluation import Item, Row, page
from tailora.reports.reproduction import card
from tailora.reports.tables import Sheet, as_markdown
from tailora.reports.tables import Table as CardTable


class EvaluateSettings(GenerateSettings):
    """Settings of `tailora evaluate`: those of `tailora generate`, and what to make of the texts."""

    without_flag = frozenset({"record", "gather"})
    limit: int | None = Field(None, ge=1)
    """Use only the first N records."""
    output: Path | None = None
    """Folder for the scores, the report and the texts that are written (required)."""
    texts: Path | None = None
    """Texts to score instead of writing any: JSON lines, a JSON list, or one text per line."""
    text_key: str | None = None
    """Key that holds the text in the rows of --texts, where it is not a usual one; a.0.b for nested ones."""
    against: Path | None = None
    """Texts of another system for the same records, to compare with."""
    against_key: str | None = None
    """Key that holds the text in the rows of --against."""
    metrics: tuple[MetricName, ...] = ()
    """Which scores; by default those that the field reports of such data."""
    tokenizer: TokenizerName | None = None
    """The sacrebleu tokenizer of BLEU, NIST, ROUGE-L, CIDEr, multi-BLEU and TER. By default each has its official
    script's, and records in Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese or Tibetan get their language's."""
    card: Literal["e2e", "webnlg", "dart"] | None = None
    """Put the scores beside the published ones of this task, with every setting that differs (card.md)."""
    draws: int = Field(1000, ge=100)
    """Resamples of the records that the intervals come from."""
    show: int = Field(50, ge=0)
    """Texts in the report, the worst first."""

    @field_validator("metrics")
    @classmethod
    def _once(cls, value: tuple[MetricName, ...]) -> tuple[MetricName, ...]:
        return tuple(dict.fromkeys(value))

    def check_sources(self) -> None:
        """Raise `SettingsError` unless there are references, a folder for the results, and texts or a model."""
        if self.record is not None or self.input is None:
            raise SettingsError("nothing to score texts against", where="input", hint="name records with references")
        if self.output is None:
            raise SettingsError("nowhere to write the scores", where="output", hint="name a folder")
        if self.texts is None:
            super().check_sources()
            return
        own = EvaluateSettings.__annotations__  # limit and output among them
        reading = {"input", "split", "slot_rules", *ReadingSettings.model_fields, *own}
        writing = self.model_fields_set & set(GenerateSettings.model_fields) - reading
        if writing:
            what = f"the texts are there, so that {min(writing)} has nothing to do"
            raise SettingsError(what, where="texts", hint="leave one of them out")


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """Write texts unless they are given, score them, and write outputs.jsonl, scores.json and report.html.

    Returns:
        The scores as in scores.json, of parts of the data too where it has some, and where the files are.

    Raises:
        UserError: records, texts, adapter or base cannot be read or do not fit each other.
    """
    assert settings.output is not None
    assert settings.input is not None
    data = settings.load(settings.input, settings.split)
    records = list(data.records[: settings.limit])
    lacking = [record.id for record in records if not record.references]
    if lacking:
        what = f"{len(lacking)} records have no reference, the first is {lacking[0]}"
        hint = "keep the marked ones with --all-texts" if data.left_out else "evaluate on records with texts"
        raise DataError(what, where=settings.input, hint=hint)
    names = settings.metrics or usual(records)
    if "slots" in names and not any(record.facts for record in records):
        raise DataError("the records have no facts to look for", where="metrics", hint="leave slots out")
    # Whatever can fail does so before texts are written, which may take hours.
    rules, parts, used = load_rules(settings.slot_rules), _parts(records, settings), _used(settings)
    _check_metrics(settings.metrics, names)
    if settings.tokenizer is not None:
        sacrebleu_tokenizer(settings.tokenizer)
    check_writable(settings.output)
    rows = InputRows.of(data, settings.limit)
    ids = [record.id for record in records]
    others = None
    if settings.against is not None:
        others = read_texts(settings.against, ids, key=settings.against_key, rows=rows)
    texts = _texts(ids, rows, settings)
    if len(texts) != len(records) or (others is not None and len(others) != len(records)):
        # Rows of one record have different texts: each is scored against all references of its record.
        texts, others = rows.spread(texts), None if others is None else rows.spread(others)
        records, parts = rows.spread(records), {name: rows.numbers(found) for name, found in parts.items()}
    measured = measure(records, texts, names, rules, settings.tokenizer)
    scores: dict[str, dict[str, Score]] = {}
    for part, numbers in parts.items():
        some = {name: found.of(numbers) for name, found in measured.statistics.items()}
        scores[part] = {name: interval(found, draws=settings.draws) for name, found in some.items()}
    result: dict[str, Any] = {part: _as_json(found, measured.missing) for part, found in scores.items()}
    for part, found in result.items():
        name = "scores.json" if part == "all" else f"scores.{part}.json"
        write_text(settings.output / name, json.dumps(found, indent=2) + "\n")
    if others is not None:
        theirs = measure(records, others, names, rules, settings.tokenizer)
        result["against"] = _compared(measured, theirs, settings.draws)
    tables = [] if settings.card is None else _card(settings.card, scores, used)
    if tables:
        write_text(settings.output / "card.md", as_markdown(Sheet(f"Reproduction card: {settings.card}", [], tables)))
    report = settings.output / "report.html"
    write_text(report, _report(records, texts, measured, scores, tables, settings))
    _tell(scores, measured, len(records), result.get("against"), tables)
    return {**result, "records": len(records), "output": str(settings.output), "report": str(report)}


def _check_metrics(wanted: Sequence[str], names: Sequence[str]) -> None:
    """Report the metrics that cannot be computed on this machine.

    Raises:
        MissingExtraError: they are all that is `wanted`.
    """
    missing = unavailable(names)
    if wanted and set(wanted) <= set(missing):
        raise missing[wanted[0]]
    for name, error in missing.items():
        Console(stderr=True).print(f"without {METRICS[name].label}: {error}", highlight=False, markup=False)


def _texts(ids: Sequence[str], rows: InputRows, settings: EvaluateSettings) -> list[str]:
    if settings.texts is not None:
        return read_texts(settings.texts, ids, key=settings.text_key, rows=rows)
    assert settings.output is not None
    output = settings.output / "outputs.jsonl"
    own = set(GenerateSettings.model_fields) - {"output", "gather"}
    given = {name: getattr(settings, name) for name in own & settings.model_fields_set}
    write_texts(GenerateSettings(**given, output=output, gather=True))
    return read_texts(output, ids)


def _parts(records: Sequence[Record], settings: EvaluateSettings) -> dict[str, list[int]]:
    """Numbers of all records; and, where they have groups of which training had some only, of those and the others."""
    parts = {"all": list(range(len(records)))}
    assert settings.input is not None
    if all(record.group is None for record in records) or "train" not in record_files.splits(settings.input):
        return parts
    train = settings.load(settings.input, "train", texts="unused")
    known = {record.group for record in train.records}
    seen = [number for number, record in enumerate(records) if record.group in known]
    unseen = [number for number, record in enumerate(records) if record.group not in known]
    return parts | {"seen": seen, "unseen": unseen} if seen and unseen else parts


def _as_json(scores: Mapping[str, Score], missing: Mapping[str, str]) -> dict[str, Any]:
    """As scores.json has it; a metric that could not be computed has no value and says why."""
    found: dict[str, Any] = {
        name: {"value": s.value, "low": s.low, "high": s.high, "signature": s.signature} for name, s in scores.items()
    }
    return found | {
        name: {"value": None, "low": None, "high": None, "signature": None, "missing": why}
        for name, why in missing.items()
    }


def _compared(first: Measured, second: Measured, draws: int) -> dict[str, Any]:
    """How much better the texts score than the others, metric by metric."""
    pairs = [(name, each, second.statistics.get(name)) for name, each in first.statistics.items()]
    found = {name: compare(each, other, draws=draws) for name, each, other in pairs if other is not None}
    return {name: {"difference": d.value, "low": d.low, "high": d.high, "p": d.p} for name, d in found.items()}


def _card(task: str, scores: Mapping[str, Mapping[str, Score]], used: Mapping[str, Any]) -> list[CardTable]:
    measured = {part: {name: score.value for name, score in found.items()} for part, found in scores.items()}
    return card(task, measured, used, METRICS)


def _used(settings: EvaluateSettings) -> dict[str, Any]:
    """The settings that a card lists, as far as they are known: those of training and decoding."""
    if settings.card is None or settings.texts is not None:  # nothing is known of how given texts were written
        return {}
    used: dict[str, Any] = {name: getattr(settings, name) for name in DecodingSettings.model_fields}
    if len(settings.adapter) == 1:
        return _training(next(iter(settings.adapters().values()))) | used
    return used if settings.base is None else used | {"base": settings.base}


def _training(adapter: Path) -> dict[str, Any]:
    """The settings that an adapter was trained with, where it lies in its run directory."""
    for folder in (adapter, adapter.parent):
        account = folder / "run.json"
        if account.is_file():
            try:
                found = json.loads(account.read_text(encoding="utf-8"))
                return {**found["settings"], "base": found["account"]["base"]}
            except (ValueError, KeyError, TypeError) as error:
                hint = "restore it, or give the adapter's folder without it"
                raise SettingsError("is not the account of a training run", where=account, hint=hint) from error
    return {}


def _rows(scores: Mapping[str, Score], missing: Mapping[str, str]) -> list[Row]:
    rows = []
    for name, metric in METRICS.items():
        if name in scores:
            score, digits = scores[name], 2 if metric.scale == 1 else 1
            value, low, high = (f"{metric.scale * each:.{digits}f}" for each in (score.value, score.low, score.high))
            rows.append(Row(metric.label, value, f"{low} to {high}", score.signature))
        elif name in missing:
            rows.append(Row(metric.label, "–", "", missing[name]))
    return rows


def _tell(
    scores: Mapping[str, Mapping[str, Score]],
    measured: Measured,
    count: int,
    against: Mapping[str, Any] | None,
    cards: Sequence[CardTable],
) -> None:
    console = Console(stderr=True)
    for part, found in scores.items():
        table = Table(title=f"{count} records" if part == "all" else part)
        for heading in ("score", "value", "95% interval"):
            table.add_column(heading, justify="left" if heading == "score" else "right")
        for row in _rows(found, measured.missing):
            table.add_row(row.name, row.value, escape(row.interval or row.how))
        console.print(table)
    if measured.note:
        console.print(measured.note, highlight=False, markup=False)
    for title, head, rows in cards:
        table = Table(title=title)
        for heading in head:
            table.add_column(heading, justify="right" if table.columns else "left")
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    for name, each in (against or {}).items():
        metric = METRICS[name]
        difference, low, high = (metric.scale * each[key] for key in ("difference", "low", "high"))
        line = f"{metric.label} {difference:+.2f} against the others ({low:+.2f} to {high:+.2f}, p = {each['p']:.3f})"
        console.print(line, highlight=False)


def _report(
    records: Sequence[Record],
    texts: Sequence[str],
    measured: Measured,
    scores: Mapping[str, Mapping[str, Score]],
    cards: Sequence[CardTable],
    settings: EvaluateSettings,
) -> str:
    reports = slot_reports(records, texts, load_rules(settings.slot_rules))
    quality = _by_text(measured.statistics)
    order = sorted(range(len(records)), key=lambda number: (-reports[number].errors, quality[number], number))
    items = [
        Item(
            id=records[number].id,
            text=texts[number],
            facts=_facts(records[number], reports[number]),
            marks=[(m.start, m.end, f"{m.fact.attribute}: {m.fact.value}", m.added) for m in reports[number].mentions],
            references=records[number].references[:3],
            note=_note(measured.statistics, number),
        )
        for number in order[: settings.show]
    ]
    tables = [(part if part != "all" else "Scores", _rows(found, measured.missing)) for part, found in scores.items()]
    about = [f"{len(records)} records of {settings.input}" + (f", {settings.split}" if settings.split else "")]
    if measured.note:
        about.append(measured.note)
    if settings.texts is not None:
        about.append(f"Texts of {settings.texts}.")
    else:
        given = settings.model_dump(exclude_unset=True, exclude={"input", "split", "output"}, mode="json")
        told = [f"{name} {' '.join(value) if isinstance(value, list) else value}" for name, value in given.items()]
        about.append(f"Written with {', '.join(told)}.")
    return page("Evaluation", about, tables, items, cards)


_OF_SINGLE_TEXTS = (
    *("rouge_l", "chrf", "chrf_pp", "webnlg_chrf", "meteor", "webnlg_meteor"),
    *("bleu", "multi_bleu", "nist", "cider"),
)


def _by_text(statistics: Mapping[str, Statistics]) -> list[float]:
    """One figure for each text by which to sort, higher being better: of the first metric that has one of its own."""
    for name in _OF_SINGLE_TEXTS:
        if name in statistics:
            return [float(value) for value in statistics[name].by_text]
    (first, *_) = statistics.values()
    return [-float(value) if first.lower_is_better else float(value) for value in first.by_text]


def _note(statistics: Mapping[str, Statistics], number: int) -> str:
    names = ("rouge_l", "cider", "meteor", "webnlg_meteor", "ter", "webnlg_ter", "chrf")
    shown = [name for name in names if name in statistics]
    return ", ".join(
        f"{METRICS[name].label} {METRICS[name].scale * float(statistics[name].by_text[number]):.1f}" for name in shown
    )


def _facts(record: Record, report: SlotReport) -> list[tuple[str, str, str]]:
    states = {**dict.fromkeys(report.repeated, "repeated"), **dict.fromkeys(report.missing, "missing")}
    own = [(fact.attribute, fact.value, states.get(fact, "said")) for fact in record.facts]
    return own + [(fact.attribute, fact.value, "added") for fact in report.added]
