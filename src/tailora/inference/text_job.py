"""A job that writes a text for each record and resumes after being stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tailora.core.console import message_console
from tailora.core.errors import MissingExtraError, UserError
from tailora.core.resume_log import ResumeLog
from tailora.data.values import Record
from tailora.engine.decoding import Decoding
from tailora.inference.outputs import count_texts, output_row, write_outputs
from tailora.inference.progress import WritingProgress
from tailora.inference.record_prompts import check_prompts, prompts_of_records
from tailora.inference.rerank import Chosen, Judge, write_chosen
from tailora.inference.setup import Setup, resolve_models
from tailora.inference.texts import Generation, Prompt
from tailora.inference.writing import LocalEngine, TextEngine, WritingSettings


@dataclass(frozen=True, eq=False)
class WrittenTexts:
    """The rows of a job's records.

    Attributes:
        rows: of outputs.jsonl, one for each record.
        replaced: number of texts of an earlier file that were replaced; None if there was no file.
        summary: counts, seconds, tokens per second, backend and precision, as in the JSON result.
        engine: precision and backend in words.
    """

    rows: list[dict[str, Any]]
    replaced: int | None
    summary: dict[str, Any]
    engine: str

    def wrote(self, output: Path) -> str:
        """Return a line that reports what was written."""
        counts = self.summary
        before = f" ({counts['resumed']} of them before the restart)" if counts["resumed"] else ""
        unfaithful = counts.get("texts_with_slot_errors")
        named = "" if not unfaithful else f"; {unfaithful:,} with slot errors, which `slot_errors` of their rows names"
        replaced = "" if self.replaced is None else f"; replaced {self.replaced:,} earlier texts"
        return (
            f"wrote {output}: {len(self.rows)} texts{before}, {counts['completion_tokens']:,} tokens in "
            f"{counts['seconds']:.1f} s ({counts['tokens_per_second']:,} tokens/s, {self.engine}){named}{replaced}"
        )


class TextJob:
    """Write texts for records with a base and its adapters, by one engine in this process or by several on a cluster.

    Args:
        records: what to write about.
        settings: the model and the decoding.
        source: where the records come from, for warnings.
        console: for progress and messages.

    Raises:
        UserError: base or adapters cannot be read, or do not match the records or each other.
    """

    def __init__(
        self, records: Sequence[Record], settings: WritingSettings, *, source: str | None, console: Console
    ) -> None:
        self._records, self._settings, self._console = records, settings, console
        self._decoding = settings.decoding()
        self._setup = resolve_models(settings.base, settings.adapters(), force=settings.force)
        self._judge = Judge(settings, records, self._setup.known_values)
        form, style = settings.prompt_form, settings.linearization
        self._prompts = prompts_of_records(records, self._setup, form=form, style=style, source=source)
        self._engine = _text_engine(self._setup, settings, max(len(prompt.tokens) for prompt in self._prompts))
        self._traits = self._engine.traits
        try:
            check_prompts(records, self._prompts, self._traits)
        except BaseException:
            self._engine.close()
            raise

    def write(self, output: Path | None = None, stream: Callable[[int, str], None] | None = None) -> WrittenTexts:
        """Write all texts. Records with equal prompts share a text.

        Args:
            output: file of JSON lines. Each text is kept beside it as soon as it is complete, so that a killed job
                resumes; the file itself is written at the end.
            stream: see `inference.texts.generate`; without it a progress bar is shown.

        Raises:
            UserError: see `inference.texts.generate`.
            KeyboardInterrupt: on Ctrl-C; finished texts are kept if there is an output.
        """
        try:
            return self._finish(output, stream)
        finally:
            self._engine.close()

    def _finish(self, output: Path | None, stream: Callable[[int, str], None] | None) -> WrittenTexts:
        began = time.perf_counter()
        replaced = None
        count = len(self._records)
        rows: dict[int, dict[str, Any]] = {}
        if output is None:
            fresh = list(range(count))
            self._write(fresh, rows.__setitem__, stream)
        else:
            with ResumeLog(output, self._digest()) as unfinished:
                rows = unfinished.rows
                fresh = [number for number in range(count) if number not in rows]
                try:
                    self._write(fresh, unfinished.add, stream)
                except KeyboardInterrupt:
                    kept = f"{len(rows)} texts are kept in {unfinished.path}; run the same command to continue"
                    self._console.print(kept, soft_wrap=True, highlight=False, markup=False)
                    raise
                replaced = count_texts(output) if output.exists() else None
                write_outputs(output, (rows[number] for number in range(count)))
                unfinished.remove()
        summary = {**self._summary(rows, fresh, time.perf_counter() - began), "replaced": replaced}
        return WrittenTexts([rows[number] for number in range(count)], replaced, summary, self._traits.description)

    def _write(
        self,
        numbers: Sequence[int],
        keep: Callable[[int, dict[str, Any]], None],
        stream: Callable[[int, str], None] | None,
    ) -> None:
        """Write the texts of some records, and pass each row to `keep` as soon as it is complete."""
        records = [self._records[number] for number in numbers]
        prompts = [self._prompts[number] for number in numbers]

        def done(place: int, chosen: Chosen) -> None:
            row = output_row(records[place].id, prompts[place], chosen, logprobs=self._settings.logprobs)
            keep(numbers[place], row)

        before, total = len(self._records) - len(numbers), len(dict.fromkeys(prompts))
        console = self._console if stream is None else message_console(quiet=True)
        with WritingProgress(console, before + total, before) as report:

            def write(
                asked: Sequence[Prompt], decoding: Decoding, take: Callable[[int, Generation], None]
            ) -> Mapping[int, UserError]:
                counted = decoding == self._decoding  # further candidates are of the same prompts
                progress = report if counted else lambda _, tokens: report(0, tokens)
                return self._engine.write(asked, decoding, take, progress=progress, stream=stream)

            errors = write_chosen(records, prompts, self._judge, write, done)
        if errors:
            place = min(errors)
            raise _error_of_records(errors[place], records[place].place, len(errors))

    def _with_slot_errors(self, rows: Mapping[int, dict[str, Any]]) -> dict[str, int]:
        """Return the number of texts that still have slot errors, if they were looked for."""
        if not self._settings.faithful:
            return {}
        return {"texts_with_slot_errors": sum(bool(row["slot_errors"]) for row in rows.values())}

    def _draft_counts(self) -> dict[str, int]:
        """Return the numbers of drafted and accepted tokens, if they are known."""
        counts = self._engine.drafts
        return {} if counts is None else {"drafted_tokens": counts.drafted, "accepted_tokens": counts.accepted}

    def _digest(self) -> str:
        """Return a digest of everything that the rows of the texts depend on."""
        settings, engine = self._settings, self._traits
        adapters = {name: adapter.content_hash for name, adapter in self._setup.adapters.items()}
        ways = [repr(self._decoding), settings.stop, settings.merged, settings.logprobs, settings.rerank]
        ways.append(self._judge.rules)
        if settings.faithful:
            ways.append(settings.faithful_candidates)
        ids = [record.id for record in self._records]
        parts = [self._setup.fingerprint, adapters, engine.backend, engine.precision, ways, self._prompts, ids]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _summary(self, rows: Mapping[int, dict[str, Any]], fresh: Sequence[int], seconds: float) -> dict[str, Any]:
        """Return the summary of the job; see `WrittenTexts`."""
        setup, engine = self._setup, self._traits
        written = {self._prompts[number]: number for number in fresh}.values()  # equal prompts are written once
        tokens = sum(rows[number]["completion_tokens"] for number in written)
        return {
            "base": setup.base.name,
            "adapter": list(setup.adapters) if len(setup.adapters) > 1 else next(iter(setup.adapters), None),
            "records": len(rows),
            "resumed": len(rows) - len(fresh),
            **self._with_slot_errors(rows),
            "cut_at_max_new_tokens": sum(row["finish_reason"] == "length" for row in rows.values()),
            "completion_tokens": sum(row["completion_tokens"] for row in rows.values()),
            **self._draft_counts(),
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
            "backend": engine.backend,
            "precision": engine.precision,
            "device": engine.device,
        }


def _text_engine(setup: Setup, settings: WritingSettings, longest: int) -> TextEngine:
    if not settings.ray:
        return LocalEngine(setup, settings, longest)
    try:
        from tailora.inference.ray_texts import RayTexts
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "tailora":
            raise
        what = f"--ray needs packages that are not installed ({error.name})"
        raise MissingExtraError(what, hint="pip install 'tailora[ray]'") from error
    return RayTexts(setup, settings, longest)


def _error_of_records(error: UserError, place: str, count: int) -> UserError:
    """Return the error of a record with its place and the number of other texts that failed."""
    others = "" if count == 1 else f" (and {count - 1} other texts failed)"
    return type(error)(f"{error.what}{others}", where=place, hint=error.hint)
