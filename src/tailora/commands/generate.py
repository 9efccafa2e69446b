"""`tailora generate`: texts for records, by a base model and any number of adapters, through the engine."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tailora.core.console import draws_progress
from tailora.core.errors import DataError, SettingsError
from tailora.core.resume_log import ResumeLog
from tailora.core.settings import Settings, Verbatim
from tailora.data.prompts import PromptForm
from tailora.data.readers import json_text, jsonl, piped
from tailora.data.reading import ReadingSettings
from tailora.data.values import Record
from tailora.engine.decoding import Decoding
from tailora.inference.outputs import output_row, write_outputs
from tailora.inference.rerank import by_fidelity
from tailora.inference.setup import BackendName, Precision, Running, Setup, named_adapters, resolve_models, start
from tailora.inference.texts import Generation, Prompt, generate
from tailora.metrics.slots import load_rules, vocabulary_of

log = logging.getLogger(__name__)

CACHE_TOKENS = 16384
_LENGTH_PENALTY: Mapping[Any, float] = {"lora-paper": 0.8, "lora-paper-e2e": 0.9}


class DecodingSettings(Settings):
    """How to write."""

    preset: Literal["lora-paper", "lora-paper-e2e"] | None = None
    """How Hu et al. 2021 decode WebNLG and DART (lora-paper) or E2E (lora-paper-e2e); other flags override it."""
    max_new_tokens: int = Field(100, ge=1)
    """Most tokens a text may have."""
    beams: int = Field(1, ge=1)
    """Beams kept side by side; 1 is greedy search, or sampling if the temperature is above 0."""
    length_penalty: float = 1.0
    """Beams are ranked by log-probability / tokens ** this."""
    no_repeat_ngram_size: int = Field(0, ge=0)
    """No run of so many tokens comes twice in a text; 0 allows it."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1, make tokens less likely that stand in the prompt or the text already."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """What is subtracted from the logit of every token that the text holds, from -2 to 2."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """What is subtracted from a token's logit for each time that the text holds it, from -2 to 2."""
    logit_bias: dict[int, float] = Field(default_factory=dict)
    """What is added to the logit of a token id, as ID=BIAS with a bias from -100 to 100. Again for more."""
    temperature: float = Field(0.0, ge=0)
    """Above 0, draw tokens from the distribution flattened (or, below 1, sharpened) by this."""
    top_k: int = Field(0, ge=0)
    """Draw only from so many likeliest tokens; 0 from all."""
    top_p: float = Field(1.0, ge=0, le=1)
    """Draw only from the fewest tokens whose probabilities reach this sum; 0 takes the likeliest."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Draw only tokens at least this part as likely as the likeliest."""
    num_candidates: int = Field(1, ge=1)
    """Texts for each record: the best beams, or so many draws."""
    rerank: Literal["fidelity"] | None = None
    """fidelity: of a record's candidates (all beams, unless told otherwise) take that with the fewest slot errors."""
    slot_rules: Path | None = None
    """File of rules how texts say values, beside the bundled ones for E2E (see docs/evaluate.md)."""
    logprobs: bool = False
    """Say each token's log-probability too, in nats."""
    stop: Annotated[tuple[str, ...], Verbatim()] = ()
    """String that ends a text, which is cut before it; \\n is a line end and \\t a tab. Again for more."""
    seed: int = 0
    """Of the draws; with it a record's text depends on nothing but the record."""

    @field_validator("stop")
    @classmethod
    def _line_ends(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty string ends every text; leave it out")
        return tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in value)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        penalty = _LENGTH_PENALTY.get(values.get("preset")) if isinstance(values, dict) else None
        if penalty is None:
            return values
        paper = {"beams": 10, "no_repeat_ngram_size": 4, "max_new_tokens": 64, "stop": ("\n\n",)}
        return {**paper, "length_penalty": penalty, **values}

    @model_validator(mode="after")
    def _combination(self) -> Self:
        if self.rerank and max(self.beams, self.num_candidates) == 1:
            raise SettingsError("there is one candidate to choose from", where="rerank", hint="raise beams")
        self.decoding()
        return self

    def decoding(self) -> Decoding:
        """The engine's options, checked together."""
        same = set(DecodingSettings.model_fields) - {"preset", "beams", "stop", "logprobs", "rerank", "slot_rules"}
        chosen = {name: getattr(self, name) for name in same}
        chosen["logit_bias"] = tuple(sorted(self.logit_bias.items()))
        if self.rerank and "num_candidates" not in self.model_fields_set:
            chosen["num_candidates"] = self.beams
        try:
            return Decoding(num_beams=self.beams, **chosen)
        except SettingsError as error:
            where = "beams" if error.where == "num_beams" else error.where
            hint = error.hint and error.hint.replace("num_beams", "beams")
            raise SettingsError(error.what, where=where, hint=hint) from error


class GenerateSettings(DecodingSettings, ReadingSettings):
    """Settings of `tailora generate`."""

    adapter: Annotated[tuple[str, ...], Verbatim()] = ()
    """An adapter: its folder or file, or a run directory; with NAME= before it rows can name it. Again for more."""
    base: str | None = None
    """Base model: a name (see `tailora models`), a folder or a hub id; by default the one that the adapter names."""
    input: str | None = None
    """Records to write about: a file, a folder of splits, or the name of a data set. JSON lines may name an adapter."""
    split: str | None = None
    """Which split of the input: train, valid or test."""
    limit: int | None = Field(None, ge=1)
    """Use only the first N rows of the input."""
    gather: bool = False
    """Write one text for each record, which may be several rows with different references, instead of each row."""
    record: str | None = None
    """One record instead of an input: `name : Blue Spice | Type : pub`, or its facts as JSON."""
    output: Path | None = None
    """File of JSON lines to write, one for each row of the input in its order; without it the texts are printed."""
    merged: bool = False
    """Fold the adapter into the weights first; as exact and a little faster."""
    force: bool = False
    """Accept an adapter that was trained on other weights than the base's."""
    linearization: str | None = None
    """How facts become a line of text (paper or plain); by default as in the adapter's training, else paper."""
    prompt_form: PromptForm | None = None
    """How the line becomes a prompt (paper, arrow or chat); by default as in training, arrow for an untrained base."""
    batch_size: int = Field(32, ge=1)
    """Records side by side."""
    precision: Precision = "auto"
    """Compute in int8, bf16 or fp32; auto takes int8 with OpenVINO and fp32 with torch, unless another is
    faster here by more than 10%."""
    backend: BackendName = "auto"
    """What computes: openvino on a CPU where it has the architecture, torch for everything else."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU if there is one."""

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self.check_sources()
        return self

    def check_sources(self) -> None:
        """Raise `SettingsError` unless there is one thing to write about and something to write with."""
        if (self.input is None) == (self.record is None):
            which = "nothing to write about" if self.input is None else "both --input and --record"
            raise SettingsError(which, where="input", hint="give one of --input and --record")
        if not self.adapter and self.base is None:
            raise SettingsError("neither an adapter nor a base model", where="adapter", hint="name one of them")
        if self.merged and len(self.adapter) != 1:
            which = "there is no adapter to merge" if not self.adapter else "only one adapter can be merged"
            raise SettingsError(which, where="merged", hint="name one with --adapter")
        self.adapters()

    def adapters(self) -> dict[str, Path]:
        """Where the adapters lie, by name; one without a name is called by its path."""
        return named_adapters(self.adapter)


def run(settings: GenerateSettings) -> dict[str, Any]:
    """Write texts for records, into `settings.output` or onto stdout.

    With an output, each text is kept as soon as it is there, so that a run that was killed goes on where it was.

    Returns:
        Counts, seconds and tokens a second; the rows themselves under `outputs` where no file was written.

    Raises:
        UserError: input, adapter or base cannot be read or do not fit each other.
    """
    records = read_records(settings)
    setup = resolve_models(settings.base, settings.adapters(), force=settings.force)
    prompts = _prompts(records, setup, settings)
    decoding = settings.decoding()
    width = max(decoding.num_beams, decoding.num_candidates)
    longest = max(len(prompt.tokens) for prompt in prompts) + decoding.max_new_tokens
    running = start(
        setup,
        backend=settings.backend,
        precision=settings.precision,
        device=settings.device,
        merged=settings.merged,
        sequences=width * settings.batch_size,
        cache_tokens=max(CACHE_TOKENS, width * (longest + 64)),
    )
    _check_prompts(records, prompts, running)
    began = time.perf_counter()
    rows, fresh = _write_all(records, prompts, setup, running, settings)
    seconds = time.perf_counter() - began
    written = {prompts[number]: number for number in fresh}.values()  # equal prompts are written once
    result: dict[str, Any] = {
        "base": setup.base.name,
        "adapter": list(setup.adapters) if len(setup.adapters) > 1 else next(iter(setup.adapters), None),
        "records": len(rows),
        "resumed": len(rows) - len(fresh),
        "cut_at_max_new_tokens": sum(row["finish_reason"] == "length" for row in rows),
        "completion_tokens": sum(row["completion_tokens"] for row in rows),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(sum(rows[n]["completion_tokens"] for n in written) / max(seconds, 1e-9), 1),
        "backend": running.backend,
        "precision": running.precision,
        "device": running.device,
    }
    if settings.output is None:
        return {**result, "outputs": rows}
    before = f", {result['resumed']} of them from before" if result["resumed"] else ""
    Console(stderr=True).print(
        f"wrote {settings.output}: {len(rows)} texts{before}, {result['completion_tokens']:,} tokens in "
        f"{seconds:.1f} s ({result['tokens_per_second']:,} tokens/s, {running.told})",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return {**result, "output": str(settings.output)}


def _write_all(
    records: Sequence[Record],
    prompts: Sequence[Prompt],
    setup: Setup,
    running: Running,
    settings: GenerateSettings,
) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows of all records, and the numbers of those that were written now; equal prompts share one text."""
    rows: dict[int, dict[str, Any]] = {}
    printed = settings.output is None and len(records) == 1
    rules = load_rules(settings.slot_rules)
    vocabulary = vocabulary_of(records, rules)

    def write(numbers: Sequence[int], keep: Callable[[int, dict[str, Any]], None]) -> None:
        equal: dict[Prompt, list[int]] = {}
        for number in numbers:
            equal.setdefault(prompts[number], []).append(number)
        chosen, ways = list(equal), settings.decoding()

        def done(place: int, made: Generation) -> None:
            for number in equal[chosen[place]]:
                record, best = records[number], made
                if settings.rerank:
                    best = by_fidelity(record, made, vocabulary, rules)
                keep(number, output_row(record.id, prompts[number].adapter, best, logprobs=settings.logprobs))

        if printed:
            stream = None if settings.rerank else _print_piece
            generate(running, chosen, ways, stop=settings.stop, done=done, stream=stream)
            print("" if stream else rows[0]["text"])
            return
        before = len(records) - len(numbers)
        with _Bar(before + len(chosen), before) as report:
            generate(running, chosen, ways, stop=settings.stop, done=done, progress=report)

    if settings.output is None:
        fresh = list(range(len(records)))
        write(fresh, rows.__setitem__)
        if not printed:
            print("\n".join(rows[number]["text"] for number in fresh))
    else:
        with ResumeLog(settings.output, _job(prompts, setup, running, settings)) as journal:
            rows = journal.rows
            fresh = [number for number in range(len(records)) if number not in rows]
            try:
                write(fresh, journal.add)
            except KeyboardInterrupt:
                kept = f"kept {len(rows)} texts in {journal.path}; the same command goes on from there"
                Console(stderr=True).print(kept, soft_wrap=True, highlight=False, markup=False)
                raise
            write_outputs(settings.output, (rows[number] for number in range(len(records))))
            journal.remove()
    return [rows[number] for number in range(len(records))], fresh


def _print_piece(_: int, piece: str) -> None:
    print(piece, end="", flush=True)


def _job(prompts: Sequence[Prompt], setup: Setup, running: Running, settings: GenerateSettings) -> str:
    """A digest of all that the texts depend on."""
    adapters = {name: adapter.content_hash for name, adapter in setup.adapters.items()}
    ways = [repr(settings.decoding()), settings.stop, settings.merged, settings.logprobs, settings.rerank]
    ways.append(load_rules(settings.slot_rules).name)
    told = [setup.fingerprint, adapters, running.backend, running.precision, ways, prompts]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def read_records(settings: GenerateSettings) -> list[Record]:
    """The records to write about: one for each row of the input, unless rows are to be gathered."""
    if settings.record is not None:
        return [parse_record(settings.record)]
    assert settings.input is not None
    data = settings.load(settings.input, settings.split, texts="unused")
    return list((data.records if settings.gather else data.rows)[: settings.limit])


def parse_record(text: str) -> Record:
    """A record from a command line: `attribute : value | …`, or facts as JSON.

    Raises:
        DataError: it is neither.
    """
    where = "--record"
    if text.lstrip().startswith(("{", "[")):
        value = json_text.whole(text, where, hint="quote it for your shell")
        if isinstance(value, dict) and isinstance(value.get("facts"), dict | list):
            value = value["facts"]
        return Record("1", jsonl.parse_facts(value, where), ())
    try:
        return Record("1", piped.parse_facts(text), ())
    except ValueError as error:
        hint = "write attribute : value, facts parted by |, spaces around the colon"
        raise DataError(f"{str(error)!r} is no fact", where=where, hint=hint) from error


def _prompts(records: Sequence[Record], setup: Setup, settings: GenerateSettings) -> list[Prompt]:
    """Token ids in the form that each record's adapter was trained on, or the user insists on."""
    adapters = [_adapter_of(record, setup.adapters) for record in records]
    prompts: dict[int, Prompt] = {}
    for adapter in dict.fromkeys(adapters):
        numbers = [number for number, name in enumerate(adapters) if name == adapter]
        chosen = setup.prompts(adapter, form=settings.prompt_form, style=settings.linearization)
        own = [records[number] for number in numbers]
        _warn_of_unknown_attributes(chosen.unknown_attributes(own), adapter, settings.input)
        encoded = chosen.encode(own)
        prompts |= {number: Prompt(tokens, adapter) for number, tokens in zip(numbers, encoded, strict=True)}
    return [prompts[number] for number in range(len(records))]


def _warn_of_unknown_attributes(names: Sequence[str], adapter: str | None, source: str | None) -> None:
    if names:
        log.warning(
            "%s: %s was not trained on %s; leave such columns out with --columns ignore=NAME+NAME, or use "
            "the --columns of the training run",
            source or "the record",
            adapter or "the model",
            ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else ""),
        )


def _adapter_of(record: Record, adapters: Mapping[str, Any]) -> str | None:
    if record.adapter == "":
        return None
    where = f"record {record.id}"
    if record.adapter is not None:
        if record.adapter not in adapters:
            known = ", ".join(adapters) or "none"
            hint = f"give it with --adapter {record.adapter}=PATH (there are: {known})"
            raise DataError(f"names the adapter {record.adapter!r}", where=where, hint=hint)
        return record.adapter
    if len(adapters) > 1:
        what = f"names none of the {len(adapters)} adapters"
        raise DataError(what, where=where, hint='give JSON lines with an "adapter", null for the base alone')
    return next(iter(adapters), None)


def _check_prompts(records: Sequence[Record], prompts: Sequence[Prompt], running: Running) -> None:
    context = running.engine.backend.context
    for record, prompt in zip(records, prompts, strict=True):
        if running.built_in and prompt.adapter is None:
            raise DataError(
                "asks for the base alone, which the adapter is part of here",
                where=f"record {record.id}",
                hint="run such records without --adapter",
            )
        if len(prompt.tokens) >= context:
            raise DataError(
                f"its prompt has {len(prompt.tokens)} tokens and the model takes {context} with the text",
                where=f"record {record.id}",
                hint="shorten it",
            )


class _Bar:
    """A progress bar on stderr that tells tokens a second; it is not drawn where stderr is no terminal."""

    def __init__(self, total: int, done: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not draws_progress(console),
        )
        self._task = self._progress.add_task("", total=total, completed=done, speed=0.0)
        self._start = time.perf_counter()
        self._tokens = 0

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return self._report

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def _report(self, prompts: int, tokens: int) -> None:
        self._tokens += tokens
        speed = self._tokens / max(time.perf_counter() - self._start, 1e-9)
        self._progress.update(self._task, advance=prompts, speed=speed)
