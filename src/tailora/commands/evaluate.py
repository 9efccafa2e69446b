"""`tailora evaluate`: write texts for records, score them with intervals, and report the worst ones.

Several systems are scored side by side, with a test of every pair.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from rich.console import Console
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.errors import DataError, SettingsError
from tailora.core.fields import flag
from tailora.core.files import check_writable, write_text
from tailora.core.plural import plural
from tailora.core.settings import Unset, Verbatim
from tailora.data.known_values import KnownValues, joined
from tailora.data.reading import SplitSettings
from tailora.data.records import DataFile
from tailora.data.row_selection import FirstRecords
from tailora.data.system_texts import InputRows, read_texts
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record
from tailora.evaluation.groups import Division, Group, groups_of, spread
from tailora.evaluation.parts import TrainingData, parts_of
from tailora.evaluation.report import group_tables, report_html, score_rows
from tailora.evaluation.scoring import Evaluation, Scoring
from tailora.evaluation.systems import System, files_of, read_files, reading_of, systems_of, whole_models
from tailora.evaluation.systems_comparison import compare_systems
from tailora.evaluation.systems_report import SystemsReport
from tailora.evaluation.systems_tables import terminal_note, terminal_tables
from tailora.evaluation.training_record import training_settings, training_source
from tailora.inference.decoding_settings import DecodingSettings
from tailora.inference.setup import resolve_models, trained_reading
from tailora.inference.text_job import TextJob
from tailora.inference.writing import WritingSettings
from tailora.metrics.statistics import Test
from tailora.metrics.suite import METRICS, MetricName
from tailora.metrics.tokenizers import TokenizerName
from tailora.reports.reproduction import card
from tailora.reports.tables import Sheet, as_markdown
from tailora.reports.tables import Table as CardTable

RESULTS = (
    *("scores.json", "scores.*.json", "scores.csv", "scores.tex", "differences.csv"),
    *("groups.json", "groups.csv", "texts.csv", "card.md", "report.html"),
)
"""Files that an evaluation writes into its folder, besides the texts."""


class EvaluateSettings(WritingSettings, SplitSettings):
    """Settings of `tailora evaluate`."""

    heading = "scoring"
    headings: ClassVar = {"input": "data", "train": "data", "output": "output", "show": "output"}
    first = "systems"
    systems: Annotated[tuple[str, ...], Verbatim(), Unset("the one of --texts, --adapter or --base")] = ()
    """Systems to score: files of texts, run directories of any method, adapters, models, or output folders of
    evaluations, optionally named, as NAME=PATH. Models write their texts. Several systems are compared in one
    report."""
    input: str
    """Records with references: a file, a folder of splits, or a data set's name. JSON lines may name an adapter."""
    texts: Annotated[Path | None, Unset("write the texts")] = None
    """Texts to score: JSON Lines, a JSON list, or one text per line. They replace writing with a model."""
    text_key: Annotated[str | None, Unset("the usual names")] = None
    """Key of the text in the rows of --texts and of systems. a.0.b addresses nested values."""
    against: Annotated[Path | None, Unset("none")] = None
    """Texts of another system for the same records, to compare with."""
    against_key: Annotated[str | None, Unset("the usual names")] = None
    """Key of the text in the rows of --against."""
    train: Annotated[str | None, Unset("the train split of the input, or the data of the adapter's run")] = None
    """Data that the system was trained on, for scores of seen and unseen parts and for parent_c: a file, a folder of
    splits, or a data set's name."""
    metrics: Annotated[tuple[MetricName, ...], Unset("those usually reported for such data")] = ()
    """Metrics to compute, separated by commas."""
    by: Annotated[
        tuple[Division | Literal["none"], ...],
        Unset("all that the data have, entities only for triples or with --train"),
    ] = ()
    """Divisions of the records whose groups are scored separately: by category, by the number of facts, or by entities
    (subjects and values) of which all, some or none occur in training. none turns them off."""
    tokenizer: Annotated[TokenizerName | None, Unset("the tokenizer of each metric's official script")] = None
    """sacrebleu tokenizer for BLEU, NIST, ROUGE-L, CIDEr, multi-BLEU, TER, PARENT, distinct-n and MSTTR. For records in
    Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese or Tibetan the default is their language's tokenizer."""
    card: Annotated[Literal["e2e", "webnlg", "dart"] | None, Unset("none")] = None
    """Write card.md: the scores next to the published ones for this task, with every setting that differs."""
    draws: int = Field(1000, ge=100)
    """Number of bootstrap samples of the records for the confidence intervals and the tests of differences."""
    test: Test = "bootstrap"
    """Test of differences between systems: paired bootstrap, or approximate randomisation. Scores of diversity are
    always tested by randomisation."""
    show: Annotated[int | None, Unset("50, and up to 1,000 for several systems")] = Field(None, ge=0)
    """Number of records whose texts are in the report, the worst first."""
    output: Path
    """Folder for the scores, the report and the texts that are written."""

    @field_validator("metrics")
    @classmethod
    def _once(cls, value: tuple[MetricName, ...]) -> tuple[MetricName, ...]:
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if self.systems:
            self.check_systems(len(self.systems))
            return self
        if self.texts is None:
            self.check_model()
            return self
        self.check_written()
        return self

    def check_systems(self, count: int) -> None:
        """Raise `SettingsError` if a setting has no meaning for a number of systems."""
        for name in ("texts", "adapter") if count == 1 else ("texts", "adapter", "against", "card"):
            if getattr(self, name):
                what = f"{flag(name)} cannot be combined with {plural(count, 'system')}"
                raise SettingsError(what, where="systems", hint=f"leave out {flag(name)}, or name it as a system")

    def check_written(self) -> None:
        """Raise `SettingsError` if a setting is about writing texts, for texts that are already written."""
        writing = self.model_fields_set & set(WritingSettings.model_fields) - {"slot_rules"}
        if writing:
            what = f"{min(writing)} has no effect on texts that are already written"
            where = "systems" if self.systems else "texts"
            raise SettingsError(what, where=where, hint=f"leave out {flag(where)} or {flag(min(writing))}")


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What systems are scored on.

    Attributes:
        records: with references.
        rows: of the input, which the records were gathered from.
        scoring: the metrics.
        parts: numbers of the records in each part of the data.
        groups: of the records.
    """

    records: list[Record]
    rows: InputRows
    scoring: Scoring
    parts: dict[str, list[int]]
    groups: list[Group]

    def spread(self) -> _Prepared:
        """Return the same for rows: those of one record have different texts, and each is scored for its record."""
        parts = {name: self.rows.numbers(numbers) for name, numbers in self.parts.items()}
        groups = spread(self.groups, self.rows)
        return replace(self, records=self.rows.spread(self.records), parts=parts, groups=groups)

    @property
    def ids(self) -> list[str]:
        """The records' ids."""
        return [record.id for record in self.records]


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """Write texts, or read them with --texts, score them, and write outputs.jsonl, scores.json and report.html.

    Returns:
        The scores as in scores.json, also for parts of the data if there are any, and the paths of the files.

    Raises:
        UserError: records, texts, adapter or base cannot be read or do not match.
    """
    console = message_console()
    if not settings.systems:
        return _run_one((), settings, console)
    systems = systems_of(settings.systems)
    settings.check_systems(len(systems))
    if all(system.kind == "texts" for system in systems):
        settings.check_written()
    with whole_models(systems, settings.output / "models", settings.base, force=settings.force) as whole:
        if len(whole) > 1:
            return _run_several(whole, settings, console)
        return _run_one(whole, settings.model_copy(update={"systems": (), **whole[0].settings}), console)


def _run_one(systems: Sequence[System], settings: EvaluateSettings, console: Console) -> dict[str, Any]:
    """Score one system, which the settings name; `systems` has it too if it was named as a system."""
    trained = None if settings.texts is not None else trained_reading(settings.base, settings.adapters())
    prepared = _prepared(systems, settings, trained, console)
    records, rows, used, ids = prepared.records, prepared.rows, _used(settings), prepared.ids
    others = None
    if settings.against is not None:
        others = read_texts(settings.against, ids, key=settings.against_key, rows=rows)
    if settings.texts is not None:
        texts = read_texts(settings.texts, ids, key=settings.text_key, rows=rows)
    else:
        texts = _written(records, settings, console)
    if len(texts) != len(records) or (others is not None and len(others) != len(records)):
        texts, others = rows.spread(texts), None if others is None else rows.spread(others)
        prepared = prepared.spread()
    ways: dict[str, Any] = {"test": settings.test, "groups": prepared.groups}
    evaluation = prepared.scoring.evaluate(prepared.records, texts, prepared.parts, others, **ways)
    cards = [] if settings.card is None else _cards(settings.card, evaluation, used)
    result = _save(evaluation, cards, settings)
    _print(console, evaluation, cards)
    return result


def _prepared(
    systems: Sequence[System], settings: EvaluateSettings, trained: TrainedReading | None, console: Console
) -> _Prepared:
    """Read and check everything that can fail before texts are written, which may take hours."""
    reads_texts = settings.texts is not None or settings.against is not None or len(systems) > 1
    first = None if settings.limit is None or reads_texts else FirstRecords(settings.limit)
    data = settings.load(settings.input, settings.split, trained=trained, selection=first)
    records = _with_references(data, settings)
    models = [system.path for system in systems if system.kind != "texts"] or settings.adapters().values()
    training = TrainingData(settings.input, settings, trained, settings.train)
    if not training.is_known and ("parent_c" in settings.metrics or "entities" in settings.by):
        training = TrainingData(settings.input, settings, trained, training_source(models))
    scoring = Scoring(
        records,
        settings.metrics,
        tokenizer=settings.tokenizer,
        slot_rules=settings.slot_rules,
        draws=settings.draws,
        training=training.examples if "parent_c" in settings.metrics and training.is_known else None,
        known=_known_values(systems, settings, training),
    )
    for name, error in scoring.unavailable.items():
        console.print(f"without {METRICS[name].label}: {error}", highlight=False, markup=False)
    parts = parts_of(records, training)
    chosen = [by for by in settings.by if by != "none"]
    groups = groups_of(records, training, chosen if settings.by else None)
    check_writable(settings.output)
    return _Prepared(records, InputRows.of(data, settings.limit), scoring, parts, groups)


def _known_values(systems: Sequence[System], settings: EvaluateSettings, training: TrainingData) -> KnownValues:
    """Return the values that any of the systems was trained on."""
    adapters = {system.name: system.path for system in systems if system.kind == "adapter"} or settings.adapters()
    bases = [system.settings["base"] for system in systems if system.kind in ("base", "delta")]
    own = [training.known_values(base, {}) for base in bases]
    return joined([training.known_values(settings.base, adapters), *own])


def _run_several(systems: Sequence[System], settings: EvaluateSettings, console: Console) -> dict[str, Any]:
    """Score several systems, and write their report, tables and texts."""
    for system in systems:  # before any texts are written
        if system.kind == "adapter":
            resolve_models(settings.base, {system.name: system.path}, force=settings.force)
    prepared = _prepared(systems, settings, reading_of(systems, settings.base), console)
    records, rows = prepared.records, prepared.rows
    texts = read_files(systems, prepared.ids, rows, settings.text_key)
    files = {name: settings.output / file for name, file in files_of([system.name for system in systems]).items()}
    for system in systems:
        if system.kind == "texts":
            continue
        console.print(f"{system.name}: {system.path}", highlight=False, markup=False, soft_wrap=True)
        alone = settings.model_copy(update=system.settings)
        texts[system.name] = _written(records, alone, console, files[system.name])
    texts = {system.name: texts[system.name] for system in systems}
    if any(len(own) != len(records) for own in texts.values()):
        texts, prepared = {name: rows.spread(own) for name, own in texts.items()}, prepared.spread()
    ways: dict[str, Any] = {"test": settings.test, "groups": prepared.groups}
    comparison = compare_systems(prepared.scoring, prepared.records, texts, prepared.parts, **ways)
    report = SystemsReport(comparison)
    about = [_about_records(prepared.records, settings), *_notes(next(iter(comparison.systems.values())))]
    about.append("; ".join(f"{system.name}: {system.path}" for system in systems) + ".")
    _remove_results(settings.output)
    for system in systems:
        if system.kind == "texts" and system.path.resolve() != files[system.name].resolve():
            _copy(texts[system.name], prepared, files[system.name])
    page = report.save(settings.output, about, 1000 if settings.show is None else settings.show)
    for table in terminal_tables(report):
        console.print(table)
    console.print(terminal_note(report), highlight=False, markup=False)
    return {
        **comparison.as_json(),
        "records": len(prepared.records),
        "output": str(settings.output),
        "report": str(page),
    }


def _copy(texts: Sequence[str], prepared: _Prepared, file: Path) -> None:
    """Write the texts of a system that is a file, so that the folder has those of all systems."""
    ids = prepared.ids if len(set(prepared.ids)) == len(texts) else prepared.rows.ids
    lines = (json.dumps({"id": own, "text": text}, ensure_ascii=False) for own, text in zip(ids, texts, strict=True))
    write_text(file, "".join(f"{line}\n" for line in lines))


def _with_references(data: DataFile, settings: EvaluateSettings) -> list[Record]:
    records = list(data.records[: settings.limit])
    lacking = [record.id for record in records if not record.references]
    if lacking:
        some = f"{len(lacking):,} of {plural(len(records), 'record')}"
        what = f"{some} have no reference, the first with the id {lacking[0]!r}"
        hint = "keep the marked ones with --all-texts" if data.left_out else "evaluate on records with texts"
        raise DataError(what, where=settings.input, hint=hint)
    return records


def _written(
    records: Sequence[Record], settings: EvaluateSettings, console: Console, output: Path | None = None
) -> list[str]:
    output = output or settings.output / "outputs.jsonl"
    written = TextJob(records, settings, source=settings.input, console=console).write(output)
    console.print(written.wrote(output), soft_wrap=True, highlight=False, markup=False)
    return [row["text"] for row in written.rows]


def _remove_results(folder: Path) -> None:
    """Remove what another evaluation wrote into a folder, of which this one may not write every file."""
    for pattern in RESULTS:
        for path in folder.glob(pattern):
            path.unlink()


def _save(evaluation: Evaluation, cards: Sequence[CardTable], settings: EvaluateSettings) -> dict[str, Any]:
    """Write the scores, the card and the report, and return the result of the command."""
    result: dict[str, Any] = dict(evaluation.as_json())
    _remove_results(settings.output)
    for part, scores in result.items():
        name = "scores.json" if part == "all" else f"scores.{part}.json"
        write_text(settings.output / name, json.dumps(scores, indent=2) + "\n")
    if evaluation.groups:
        result["groups"] = evaluation.groups_as_json()
        write_text(settings.output / "groups.json", json.dumps(result["groups"], indent=2) + "\n")
    if evaluation.against is not None:
        result["against"] = evaluation.against
    if cards:
        write_text(settings.output / "card.md", as_markdown(Sheet(f"Reproduction card: {settings.card}", [], cards)))
    report = settings.output / "report.html"
    write_text(
        report,
        report_html(evaluation, _about(evaluation, settings), cards, 50 if settings.show is None else settings.show),
    )
    return {**result, "records": len(evaluation.records), "output": str(settings.output), "report": str(report)}


def _about_records(records: Sequence[Record], settings: EvaluateSettings) -> str:
    return f"{len(records)} records of {settings.input}" + (f", {settings.split}" if settings.split else "")


def _notes(evaluation: Evaluation) -> list[str]:
    return [evaluation.measured.note] if evaluation.measured.note else []


def _about(evaluation: Evaluation, settings: EvaluateSettings) -> list[str]:
    about = [_about_records(evaluation.records, settings), *_notes(evaluation)]
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
            table.add_row(row.name, row.value, row.interval or row.how)
        console.print(table)
    if evaluation.measured.note:
        console.print(evaluation.measured.note, highlight=False, markup=False)
    for title, head, rows in [*group_tables(evaluation), *cards]:
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
