"""`tailora evaluate`: write texts for records, score them with intervals, and report the worst ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.errors import DataError, SettingsError
from tailora.core.fields import flag
from tailora.core.files import check_writable, write_text
from tailora.core.plural import plural
from tailora.core.settings import Unset
from tailora.data.reading import SplitSettings
from tailora.data.records import DataFile
from tailora.data.system_texts import InputRows, read_texts
from tailora.data.values import Record
from tailora.evaluation.parts import TrainingData, parts_of
from tailora.evaluation.report import report_html, score_rows
from tailora.evaluation.scoring import Evaluation, Scoring
from tailora.evaluation.training_record import training_settings
from tailora.inference.decoding_settings import DecodingSettings
from tailora.inference.setup import trained_reading
from tailora.inference.text_job import TextJob
from tailora.inference.writing import WritingSettings
from tailora.metrics.suite import METRICS, MetricName
from tailora.metrics.tokenizers import TokenizerName
from tailora.reports.reproduction import card
from tailora.reports.tables import Sheet, as_markdown
from tailora.reports.tables import Table as CardTable


class EvaluateSettings(WritingSettings, SplitSettings):
    """Settings of `tailora evaluate`."""

    heading = "scoring"
    headings: ClassVar = {"input": "data", "train": "data", "output": "output", "show": "output"}
    input: str
    """Records with references: a file, a folder of splits, or a data set's name. JSON lines may name an adapter."""
    texts: Annotated[Path | None, Unset("write the texts")] = None
    """Texts to score: JSON Lines, a JSON list, or one text per line. They replace writing with a model."""
    text_key: Annotated[str | None, Unset("the usual names")] = None
    """Key of the text in the rows of --texts. a.0.b addresses nested values."""
    against: Annotated[Path | None, Unset("none")] = None
    """Texts of another system for the same records, to compare with."""
    against_key: Annotated[str | None, Unset("the usual names")] = None
    """Key of the text in the rows of --against."""
    train: Annotated[str | None, Unset("the train split of the input, if it has one")] = None
    """Data that the system was trained on, for scores of seen and unseen parts and for parent_c: a file, a folder of
    splits, or a data set's name."""
    metrics: Annotated[tuple[MetricName, ...], Unset("those usually reported for such data")] = ()
    """Metrics to compute, separated by commas."""
    tokenizer: Annotated[TokenizerName | None, Unset("the tokenizer of each metric's official script")] = None
    """sacrebleu tokenizer for BLEU, NIST, ROUGE-L, CIDEr, multi-BLEU and TER. For records in Chinese, Japanese, Korean,
    Thai, Lao, Khmer, Burmese or Tibetan the default is their language's tokenizer."""
    card: Annotated[Literal["e2e", "webnlg", "dart"] | None, Unset("none")] = None
    """Write card.md: the scores next to the published ones for this task, with every setting that differs."""
    draws: int = Field(1000, ge=100)
    """Number of bootstrap samples of the records for the confidence intervals."""
    show: int = Field(50, ge=0)
    """Number of texts in the report, the worst first."""
    output: Path
    """Folder for the scores, the report and the texts that are written."""

    @field_validator("metrics")
    @classmethod
    def _once(cls, value: tuple[MetricName, ...]) -> tuple[MetricName, ...]:
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if self.texts is None:
            self.check_model()
            return self
        writing = self.model_fields_set & set(WritingSettings.model_fields) - {"slot_rules"}
        if writing:
            what = f"{min(writing)} has no effect on texts that are already written"
            raise SettingsError(what, where="texts", hint=f"leave out --texts or {flag(min(writing))}")
        return self


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """Write texts, or read them with --texts, score them, and write outputs.jsonl, scores.json and report.html.

    Returns:
        The scores as in scores.json, also for parts of the data if there are any, and the paths of the files.

    Raises:
        UserError: records, texts, adapter or base cannot be read or do not match.
    """
    console = message_console()
    trained = None if settings.texts is not None else trained_reading(settings.base, settings.adapters())
    data = settings.load(settings.input, settings.split, trained=trained)
    records = _with_references(data, settings)
    training = TrainingData(settings.input, settings, trained, settings.train)
    scoring = Scoring(
        records,
        settings.metrics,
        tokenizer=settings.tokenizer,
        slot_rules=settings.slot_rules,
        draws=settings.draws,
        training=training.examples if "parent_c" in settings.metrics and training.is_known else None,
    )
    for name, error in scoring.unavailable.items():
        console.print(f"without {METRICS[name].label}: {error}", highlight=False, markup=False)
    # Anything that can fail is done before texts are written, which may take hours.
    parts, used = parts_of(records, training), _used(settings)
    check_writable(settings.output)
    rows = InputRows.of(data, settings.limit)
    ids = [record.id for record in records]
    others = None
    if settings.against is not None:
        others = read_texts(settings.against, ids, key=settings.against_key, rows=rows)
    if settings.texts is not None:
        texts = read_texts(settings.texts, ids, key=settings.text_key, rows=rows)
    else:
        texts = _written(records, settings, console)
    if len(texts) != len(records) or (others is not None and len(others) != len(records)):
        # Rows of one record have different texts: each is scored against all references of its record.
        texts, others = rows.spread(texts), None if others is None else rows.spread(others)
        records, parts = rows.spread(records), {name: rows.numbers(numbers) for name, numbers in parts.items()}
    evaluation = scoring.evaluate(records, texts, parts, others)
    cards = [] if settings.card is None else _cards(settings.card, evaluation, used)
    result = _save(evaluation, cards, settings)
    _print(console, evaluation, cards)
    return result


def _with_references(data: DataFile, settings: EvaluateSettings) -> list[Record]:
    records = list(data.records[: settings.limit])
    lacking = [record.id for record in records if not record.references]
    if lacking:
        some = f"{len(lacking):,} of {plural(len(records), 'record')}"
        what = f"{some} have no reference, the first with the id {lacking[0]!r}"
        hint = "keep the marked ones with --all-texts" if data.left_out else "evaluate on records with texts"
        raise DataError(what, where=settings.input, hint=hint)
    return records


def _written(records: Sequence[Record], settings: EvaluateSettings, console: Console) -> list[str]:
    output = settings.output / "outputs.jsonl"
    written = TextJob(records, settings, source=settings.input, console=console).write(output)
    console.print(written.wrote(output), soft_wrap=True, highlight=False, markup=False)
    return [row["text"] for row in written.rows]


def _save(evaluation: Evaluation, cards: Sequence[CardTable], settings: EvaluateSettings) -> dict[str, Any]:
    """Write the scores, the card and the report, and return the result of the command."""
    result: dict[str, Any] = dict(evaluation.as_json())
    for part, scores in result.items():
        name = "scores.json" if part == "all" else f"scores.{part}.json"
        write_text(settings.output / name, json.dumps(scores, indent=2) + "\n")
    if evaluation.against is not None:
        result["against"] = evaluation.against
    if cards:
        write_text(settings.output / "card.md", as_markdown(Sheet(f"Reproduction card: {settings.card}", [], cards)))
    report = settings.output / "report.html"
    write_text(report, report_html(evaluation, _about(evaluation, settings), cards, settings.show))
    return {**result, "records": len(evaluation.records), "output": str(settings.output), "report": str(report)}


def _about(evaluation: Evaluation, settings: EvaluateSettings) -> list[str]:
    about = [
        f"{len(evaluation.records)} records of {settings.input}" + (f", {settings.split}" if settings.split else "")
    ]
    if evaluation.measured.note:
        about.append(evaluation.measured.note)
    if settings.texts is not None:
        about.append(f"Texts of {settings.texts}.")
    else:
        chosen = settings.model_dump(exclude_unset=True, exclude={"input", "split", "output"}, mode="json")
        ways = [f"{name} {' '.join(value) if isinstance(value, list) else value}" for name, value in chosen.items()]
        about.append(f"Written with {', '.join(ways)}.")
    return about


def _cards(task: str, evaluation: Evaluation, used: dict[str, Any]) -> list[CardTable]:
    measured = {
        part: {name: score.value for name, score in scores.items()} for part, scores in evaluation.scores.items()
    }
    return card(task, measured, used, METRICS)


def _used(settings: EvaluateSettings) -> dict[str, Any]:
    """Return the settings of training and decoding that a card lists, as far as they are known."""
    if settings.card is None or settings.texts is not None:  # it is unknown how these texts were written
        return {}
    used: dict[str, Any] = {name: getattr(settings, name) for name in DecodingSettings.model_fields}
    if len(settings.adapter) == 1:
        return training_settings(next(iter(settings.adapters().values()))) | used
    return used if settings.base is None else used | {"base": settings.base}


def _print(console: Console, evaluation: Evaluation, cards: Sequence[CardTable]) -> None:
    for part in evaluation.scores:
        table = Table(title=f"{len(evaluation.records)} records" if part == "all" else part)
        for heading in ("score", "value", "95% interval"):
            table.add_column(heading, justify="left" if heading == "score" else "right")
        for row in score_rows(evaluation, part):
            table.add_row(row.name, row.value, escape(row.interval or row.how))
        console.print(table)
    if evaluation.measured.note:
        console.print(evaluation.measured.note, highlight=False, markup=False)
    for title, head, rows in cards:
        table = Table(title=title)
        for heading in head:
            table.add_column(heading, justify="right" if table.columns else "left")
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    for name, change in (evaluation.against or {}).items():
        metric = METRICS[name]
        difference, low, high = (metric.scale * change[key] for key in ("difference", "low", "high"))
        line = f"{metric.label} {difference:+.2f} against the others ({low:+.2f} to {high:+.2f}, p = {change['p']:.3f})"
        console.print(line, highlight=False)
