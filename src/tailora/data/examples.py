"""Training examples: prompt and completion of each text as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tailora.core.errors import DataError, SettingsError
from tailora.core.plural import plural
from tailora.data.prompts import PromptForm, PromptFormat, encode_prompts, prompt_text
from tailora.data.tokenizer import Tokenizer
from tailora.data.values import Record

__all__ = ["Example", "ExampleReport", "Overlong", "PromptForm", "build_examples", "encode_prompts", "prompt_text"]

Overlong = Literal["error", "drop", "cut"]


@dataclass(frozen=True, slots=True)
class Example:
    """One text of one record, as token ids.

    Attributes:
        record_id: the record that it belongs to; examples of one record have equal prompts.
        prompt: never empty.
        completion: never empty; ends in the end-of-text token unless it was cut. Of a conversation with several
            answers to learn, everything after the prompt of the first one.
        context: (start, end) of the parts of such a completion that are not learnt: other messages, and what the chat
            template puts between them.
    """

    record_id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    context: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt) + len(self.completion)

    @property
    def learnt(self) -> Sequence[int]:
        """The places in the completion of the tokens that are learnt, ascending."""
        if not self.context:
            return range(len(self.completion))
        skipped = {place for start, end in self.context for place in range(start, end)}
        return [place for place in range(len(self.completion)) if place not in skipped]

    def cut(self, length: int) -> Example | None:
        """Return the example with the first tokens of its completion; None if none of them is learnt."""
        context = tuple((start, min(end, length)) for start, end in self.context if start < length)
        cut = replace(self, completion=self.completion[:length], context=context)
        return cut if length > 0 and cut.learnt else None


@dataclass(frozen=True)
class ExampleReport:
    """Counts of the examples built from records.

    Attributes:
        total: texts in the records.
        without_text: records without a text, which give no example.
        overlong: texts that have more than `max_length` tokens with their prompt.
        dropped: overlong texts that are left out: all, or, when cutting, those whose prompt alone is too long.
        cut: overlong texts shortened to `max_length`; their completion does not end with the end-of-text token.
        longest: tokens of the longest text with its prompt, before anything was dropped or cut.
        max_length: the limit, in tokens; None for none.
    """

    total: int
    without_text: int
    overlong: int
    dropped: int
    cut: int
    longest: int
    max_length: int | None

    def __str__(self) -> str:
        text = f"{plural(self.total, 'example')}, the longest has {plural(self.longest, 'token')}"
        if self.overlong:
            counts = ((self.dropped, "left out"), (self.cut, "cut"))
            treatment = " and ".join(f"{count:,} {what}" for count, what in counts if count)
            text += f"; {self.overlong:,} with more than {self.max_length} tokens ({treatment})"
        if self.without_text:
            text += f"; {plural(self.without_text, 'record')} without a text"
        return text


def build_examples(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    *,
    form: PromptForm = "paper",
    style: str = "paper",
    prompts: PromptFormat | None = None,
    max_length: int | None = None,
    overlong: Overlong = "error",
) -> tuple[list[Example], ExampleReport]:
    """Return an example for each text of each record, in order, and the counts.

    Args:
        records: those without a reference give no example and are counted.
        tokenizer: the base model's.
        form: see `PromptFormat`.
        style: see `linearize`.
        prompts: the format, in place of form and style.
        max_length: the most tokens of prompt and completion together; None for no limit.
        overlong: for longer ones: raise an error, drop them, or cut the end of the completion.

    Raises:
        DataError: an example is too long (`overlong="error"`), or none is left.
    """
    if overlong not in get_args(Overlong):
        raise SettingsError(f"overlong must not be {overlong!r}", hint=f"use one of {', '.join(get_args(Overlong))}")
    chosen = prompts or PromptFormat.of_training(tokenizer, form=form, style=style)
    examples: list[Example] = []
    total = too_long = dropped = longest = 0
    for example in _examples(records, chosen):
        total += 1
        longest = max(longest, len(example))
        if max_length is None or len(example) <= max_length:
            examples.append(example)
            continue
        too_long += 1
        shortened = example.cut(max_length - len(example.prompt)) if overlong == "cut" else None
        if shortened is None:
            dropped += 1
        else:
            examples.append(shortened)
    report = ExampleReport(
        total=total,
        without_text=sum(not record.references for record in records),
        overlong=too_long,
        dropped=dropped,
        cut=too_long - dropped,
        longest=longest,
        max_length=max_length,
    )
    if too_long and overlong == "error":
        have = "has" if too_long == 1 else "have"
        what = (
            f"{too_long:,} of {plural(report.total, 'example')} {have} more than {max_length} tokens, up to {longest:,}"
        )
        raise DataError(what, hint="raise --max-length, or choose --overlong drop or --overlong cut")
    if not examples:
        raise DataError(f"no example is left: {report}", hint="use records with texts, or raise --max-length")
    return examples, report


def _examples(records: Sequence[Record], prompts: PromptFormat) -> Iterator[Example]:
    """Yield the examples of records, in order."""
    encoded = zip(records, prompts.encode(records), prompts.encode_completions(records), strict=True)
    for record, prompt, completions in encoded:
        earlier = prompts.encode_earlier(record) if completions else []
        within = [turn for turn in earlier if _contains(prompt, turn)]
        for turn in earlier:
            if turn not in within:  # the template writes it otherwise in the history of a later answer
                yield Example(record.id, *turn)
        for completion in completions:
            yield _conversation(record.id, within, prompt, completion)


def _contains(prompt: Sequence[int], turn: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    """Return whether a prompt begins with an earlier prompt and its completion."""
    before, completion = turn
    return tuple(prompt[: len(before) + len(completion)]) == before + completion


def _conversation(
    record_id: str,
    earlier: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    prompt: tuple[int, ...],
    completion: tuple[int, ...],
) -> Example:
    """Return an example that learns a completion, and the earlier completions that its prompt contains."""
    if not earlier:
        return Example(record_id, prompt, completion)
    first = len(earlier[0][0])
    ends = [(len(before), len(before) + len(text)) for before, text in earlier]
    starts = [*(start for start, _ in ends[1:]), len(prompt)]
    context = tuple((end - first, start - first) for (_, end), start in zip(ends, starts, strict=True) if start > end)
    return Example(record_id, prompt[:first], prompt[first:] + completion, context)
