"""`tailora generate`: texts for records, by a base model with or without an adapter, in batches on torch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tailora.adapted import Adapted, Precision, choose_device, choose_dtype, load_adapted
from tailora.data import records as record_files
from tailora.data.examples import PromptForm, encode_prompts
from tailora.data.readers import jsonl, piped
from tailora.data.values import Record
from tailora.errors import DataError, SettingsError
from tailora.files import write_text
from tailora.models.decode import Completion, Decoding, FinishReason, context_length, decode
from tailora.models.load import Base
from tailora.settings import Settings

Reporter = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """One of several texts for a prompt; see `Generation`."""

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: FinishReason


@dataclass(frozen=True)
class Generation:
    """What was written after one prompt.

    Attributes:
        text: without special tokens and without white space at its ends.
        token_ids: as the model wrote them, the end-of-text token included.
        logprob: sum over `token_ids`, in nats, under the model itself (temperature 1).
        finish_reason: "stop" at the end-of-text token, "length" where the room ended.
        prompt_tokens: how many were given.
        completion_tokens: how many `token_ids` has.
        candidates: the best first and equal to this text; empty if only one was asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    candidates: tuple[Candidate, ...] = ()


def generate(
    base: Base,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 100,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    num_candidates: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    progress: Reporter | None = None,
) -> list[Generation]:
    """Write a text after each prompt.

    Prompts of similar length share a batch. Up to rounding, what a prompt gets does not depend on the others;
    a sampled text depends on the seed and its own prompt alone.

    Args:
        base: the model, with its adapter attached or merged if it is to have one.
        prompts: token ids, at least one each (`data.examples.encode_prompts`).
        max_new_tokens: and the further options: see `models.decode.Decoding`.
        num_beams: see there.
        length_penalty: see there.
        no_repeat_ngram_size: see there.
        temperature: see there.
        top_k: see there.
        top_p: see there.
        num_candidates: see there.
        seed: see there.
        batch_size: prompts side by side; each takes `num_beams` or `num_candidates` rows of memory.
        progress: told after each batch how many prompts and how many tokens it added.

    Returns:
        One generation for each prompt, in their order.

    Raises:
        SettingsError: an option out of its range, or a prompt that is empty or too long for the model.
    """
    decoding = Decoding(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        length_penalty=length_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        num_candidates=num_candidates,
        seed=seed,
    )
    if batch_size < 1:
        raise SettingsError("must be at least 1", where="batch_size")
    # The longest first: if memory does not suffice, that shows at once.
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    found: dict[int, Generation] = {}
    base.model.eval()
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        completed = decode(base.model, [prompts[n] for n in numbers], decoding, eos_id=base.tokenizer.eos_id)
        for number, completions in zip(numbers, completed, strict=True):
            found[number] = _generation(base, len(prompts[number]), completions)
        if progress is not None:
            progress(len(numbers), sum(len(c.token_ids) for completions in completed for c in completions))
    return [found[number] for number in range(len(prompts))]


def _generation(base: Base, prompt_tokens: int, completions: Sequence[Completion]) -> Generation:
    candidates = tuple(
        Candidate(base.tokenizer.decode(c.token_ids).strip(), c.token_ids, c.logprob, c.finish_reason)
        for c in completions
    )
    best = candidates[0]
    return Generation(
        text=best.text,
        token_ids=best.token_ids,
        logprob=best.logprob,
        finish_reason=best.finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=len(best.token_ids),
        candidates=candidates if len(candidates) > 1 else (),
    )


class DecodingSettings(Settings):
    """How to write."""

    max_new_tokens: int = Field(100, ge=1)
    """Most tokens a text may have."""
    num_beams: int = Field(1, ge=1)
    """Beams kept side by side; 1 is greedy search, or sampling if the temperature is above 0."""
    length_penalty: float = 1.0
    """Beams are ranked by log-probability / tokens ** this."""
    no_repeat_ngram_size: int = Field(0, ge=0)
    """No run of so many tokens comes twice in a text; 0 allows it."""
    temperature: float = Field(0.0, ge=0)
    """Above 0, draw tokens from the distribution flattened (or, below 1, sharpened) by this."""
    top_k: int = Field(0, ge=0)
    """Draw only from so many likeliest tokens; 0 from all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw only from the fewest tokens whose probabilities reach this sum."""
    num_candidates: int = Field(1, ge=1)
    """Texts for each record: the best beams, or so many draws."""
    seed: int = 0
    """Of the draws; with it a record's text depends on nothing but the record."""

    @model_validator(mode="after")
    def _combination(self) -> Self:
        self.decoding_options()
        return self

    def decoding_options(self) -> dict[str, Any]:
        """The options of `generate`, checked together."""
        options = {name: getattr(self, name) for name in DecodingSettings.model_fields}
        Decoding(**options)
        return options


class GenerateSettings(DecodingSettings):
    """Settings of `tailora generate`."""

    adapter: Path | None = None
    """The adapter: its folder or file, or a run directory; none uses the bare base model."""
    base: str | None = None
    """Base model: a name (see `tailora models`), a folder or a hub id; by default the one that the adapter names."""
    data: str | None = None
    """Records to write about: a file, a folder of splits, or the name of a data set."""
    split: str | None = None
    """Which split of the data: train, valid or test."""
    format: str | None = None
    """Format of the data, where it cannot be told from the file."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Which column of a table is what."""
    limit: int | None = Field(None, ge=1)
    """Only so many records, from the start."""
    record: str | None = None
    """One record instead of data: `name : Blue Spice | Type : pub`, or its facts as JSON."""
    output: Path | None = None
    """File of JSON lines to write; without it the texts are printed."""
    merged: bool = False
    """Fold the adapter into the weights first; as exact and a little faster."""
    force: bool = False
    """Accept an adapter that was trained on other weights than the base's."""
    linearization: str | None = None
    """How facts become a line; by default as the adapter was trained, else paper."""
    prompt_form: PromptForm | None = None
    """How the line becomes a prompt; by default as the adapter was trained, else paper."""
    batch_size: int = Field(16, ge=1)
    """Records side by side."""
    precision: Precision = "auto"
    """Compute in fp32 or bf16; auto takes bf16 where a probe finds it faster."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU if there is one."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.data is None) == (self.record is None):
            which = "nothing to write about" if self.data is None else "both --data and --record"
            raise SettingsError(which, where="data", mend="give one of --data and --record")
        if self.adapter is None and self.base is None:
            raise SettingsError("neither an adapter nor a base model", where="adapter", mend="name one of them")
        if self.adapter is None and self.merged:
            raise SettingsError("there is no adapter to merge", where="merged", mend="name it with --adapter")
        return self


def run(settings: GenerateSettings) -> dict[str, Any]:
    """Write texts for records, into `settings.output` or onto stdout.

    Returns:
        Counts, seconds and tokens a second; the rows themselves under `outputs` where no file was written.

    Raises:
        UserError: data, adapter or base cannot be read or do not fit each other.
    """
    records = _records(settings)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.precision, device)
    adapted = load_adapted(
        settings.adapter, settings.base, dtype=dtype, device=device, merged=settings.merged, force=settings.force
    )
    prompts = _prompts(records, adapted, settings)
    start = time.perf_counter()
    with _Bar(len(prompts)) as report:
        generations = generate(
            adapted.base, prompts, **settings.decoding_options(), batch_size=settings.batch_size, progress=report
        )
    seconds = time.perf_counter() - start
    name = None if settings.adapter is None else str(settings.adapter)
    rows = [output_row(record.id, name, made) for record, made in zip(records, generations, strict=True)]
    tokens = sum(made.completion_tokens for made in generations)
    result: dict[str, Any] = {
        "base": adapted.base.name,
        "adapter": name,
        "records": len(rows),
        "cut_at_max_new_tokens": sum(made.finish_reason == "length" for made in generations),
        "completion_tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "precision": "bf16" if adapted.base.model.dtype.itemsize == 2 else "fp32",
        "device": device,
    }
    if settings.output is None:
        for row in rows:
            print(row["text"])
        return {**result, "outputs": rows}
    write_outputs(settings.output, rows)
    Console(stderr=True).print(
        f"wrote {settings.output}: {len(rows)} texts, {tokens:,} tokens in {seconds:.1f} s "
        f"({result['tokens_per_second']:,} tokens/s)",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return {**result, "output": str(settings.output)}


def output_row(record_id: str, adapter: str | None, made: Generation) -> dict[str, Any]:
    """A generation as a row of outputs.jsonl."""
    row: dict[str, Any] = {
        "id": record_id,
        "adapter": adapter,
        "text": made.text,
        "token_ids": list(made.token_ids),
        "logprob": round(made.logprob, 6),
        "finish_reason": made.finish_reason,
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
    }
    if made.candidates:
        row["candidates"] = [
            {
                "text": candidate.text,
                "token_ids": list(candidate.token_ids),
                "logprob": round(candidate.logprob, 6),
                "finish_reason": candidate.finish_reason,
            }
            for candidate in made.candidates
        ]
    return row


def write_outputs(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write outputs.jsonl whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def _records(settings: GenerateSettings) -> list[Record]:
    if settings.record is not None:
        return [parse_record(settings.record)]
    assert settings.data is not None
    records = record_files.read(
        settings.data, format=settings.format, columns=settings.columns or None, split=settings.split
    )
    return records[: settings.limit]


def parse_record(text: str) -> Record:
    """A record from a command line: `attribute : value | …`, or facts as JSON.

    Raises:
        DataError: it is neither.
    """
    where = "--record"
    if text.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DataError(f"broken JSON ({error})", where=where, mend="quote it for your shell") from error
        if isinstance(value, dict) and isinstance(value.get("facts"), dict | list):
            value = value["facts"]
        return Record("1", jsonl.parse_facts(value, where), ())
    try:
        return Record("1", piped.parse_facts(text), ())
    except ValueError as error:
        mend = "write attribute : value, facts parted by |, spaces around the colon"
        raise DataError(f"{str(error)!r} is no fact", where=where, mend=mend) from error


def _prompts(records: Sequence[Record], adapted: Adapted, settings: GenerateSettings) -> list[tuple[int, ...]]:
    """Token ids in the form that the model was trained on, or the user insists on."""
    trained = adapted.meta
    form = settings.prompt_form or trained.get("prompt_form") or "paper"
    style = settings.linearization or trained.get("linearization") or "paper"
    prompts = encode_prompts(records, adapted.base.tokenizer, form=form, style=style)
    context = context_length(adapted.base.model)
    for record, prompt in zip(records, prompts, strict=True):
        if context is not None and len(prompt) >= context:
            raise DataError(
                f"its prompt has {len(prompt)} tokens and the model takes {context} with the text",
                where=f"record {record.id}",
                mend="shorten it",
            )
    return prompts


class _Bar:
    """A progress bar on stderr that tells tokens a second; it is not drawn where stderr is no terminal."""

    def __init__(self, total: int) -> None:
        self._progress = Progress(
            TextColumn("generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=total, speed=0.0)
        self._start = time.perf_counter()
        self._tokens = 0

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self._report

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def _report(self, prompts: int, tokens: int) -> None:
        self._tokens += tokens
        speed = self._tokens / max(time.perf_counter() - self._start, 1e-9)
        self._progress.update(self._task, advance=prompts, speed=speed)
