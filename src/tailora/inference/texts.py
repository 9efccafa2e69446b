"""Texts after prompts, through a running engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from tailora.data.mixtures import Mixture
from tailora.data.text_stream import TextStream, cut_at
from tailora.data.tokenizer import Tokenizer
from tailora.engine.decoding import Completion, Decoding
from tailora.engine.engine import Event
from tailora.engine.requests import mixture_of
from tailora.inference.running import Running


class Prompt(NamedTuple):
    """A prompt for one text.

    Attributes:
        tokens: ids, at least one.
        adapter: name of the adapter to use, of several the first; None for the base alone.
        mixture: several adapters with weights to use instead.
    """

    tokens: tuple[int, ...]
    adapter: str | None = None
    mixture: Mixture = ()

    @property
    def adapters(self) -> Mixture:
        """The adapters as the engine's requests name them."""
        return self.mixture or mixture_of(self.adapter)


@dataclass(frozen=True, kw_only=True)
class Candidate(Completion):
    """One of several texts for a prompt.

    Attributes:
        text: without special tokens, cut before a stop string, white space removed at both ends.
    """

    text: str


@dataclass(frozen=True, kw_only=True)
class Generation(Candidate):
    """The texts for one prompt: the best candidate, and all of them.

    Attributes:
        prompt_tokens: length of the prompt.
        candidates: all texts, the best first and equal to this one.
    """

    prompt_tokens: int
    candidates: tuple[Candidate, ...]

    @property
    def completion_tokens(self) -> int:
        """Length of the text in tokens."""
        return len(self.token_ids)


def generate(
    running: Running,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    stop: Sequence[str] = (),
    done: Callable[[int, Generation], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    stream: Callable[[int, str], None] | None = None,
) -> list[Generation]:
    """Write a text after each prompt.

    Up to rounding, a text does not depend on the other prompts; a sampled text depends on the seed and its own prompt
    alone.

    Args:
        running: the engine with its base and adapters.
        prompts: at least one token each.
        decoding: the options.
        stop: strings that end a text, which is cut before them.
        done: called with the number of a prompt and its generation as soon as it is done.
        progress: called after each step with the numbers of finished prompts and of new tokens.
        stream: called with the number of a prompt and a piece of its text as soon as it is final; for beams and several
            candidates only at the end.

    Returns:
        One generation for each prompt, in their order.

    Raises:
        SettingsError: a prompt is empty or too long for the model, or the engine cannot run this number of candidates.
        AdapterError: an adapter is not registered.
        ModelError: the model's logits after one of the prompts are not finite.
    """
    engine = running.engine
    numbers: dict[int, int] = {}
    texts = _Texts(running.tokenizer, prompts, stop, done, stream)
    try:
        for place, prompt in enumerate(prompts):
            numbers[engine.submit(running.request(prompt.tokens, decoding, prompt.adapters, stop))] = place
        while numbers:
            before, tokens = len(numbers), 0
            for event in engine.step():
                if event.error is not None:
                    raise event.error
                place = numbers.pop(event.number) if event.result is not None else numbers[event.number]
                tokens += texts.add(place, event)
            if progress is not None:
                progress(before - len(numbers), tokens)
    finally:
        for number in numbers:
            engine.cancel(number)
    return [texts.generations[place] for place in range(len(prompts))]


class _Texts:
    """Turns the events of prompts into pieces of text and generations; see `generate`.

    Attributes:
        generations: the finished ones, by the number of the prompt.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        stop: Sequence[str],
        done: Callable[[int, Generation], None] | None,
        stream: Callable[[int, str], None] | None,
    ) -> None:
        self.generations: dict[int, Generation] = {}
        self._tokenizer, self._prompts, self._stop = tokenizer, prompts, stop
        self._done, self._stream = done, stream
        self._streams: dict[int, TextStream] = {}

    def add(self, place: int, event: Event) -> int:
        """Take an event of the prompt at `place`, and return the number of new tokens."""
        if event.result is None:
            self._forward(place, event.tokens)
            return len(event.tokens)
        tokens = event.tokens or event.result[0].token_ids
        self._forward(place, tokens, last=True)
        generation = generation_of(self._tokenizer, len(self._prompts[place].tokens), event.result, self._stop)
        self.generations[place] = generation
        if self._done is not None:
            self._done(place, generation)
        return len(tokens)

    def _forward(self, place: int, tokens: Sequence[int], *, last: bool = False) -> None:
        if self._stream is None:
            return
        text = self._streams.setdefault(place, TextStream(self._tokenizer, self._stop))
        piece = text.add(tokens) + (text.end() if last else "")
        if piece:
            self._stream(place, piece)


def generation_of(
    tokenizer: Tokenizer, prompt_tokens: int, completions: Sequence[Completion], stop: Sequence[str]
) -> Generation:
    """The texts of the engine's completions of one prompt."""
    candidates = tuple(
        Candidate(
            c.token_ids,
            c.logprobs,
            c.finish_reason,
            c.top,
            text=cut_at(tokenizer.decode_written(c.token_ids), stop).strip(),
        )
        for c in completions
    )
    return generation_from(candidates, prompt_tokens)


def generation_from(candidates: tuple[Candidate, ...], prompt_tokens: int) -> Generation:
    """A generation of candidates, the best first."""
    best = candidates[0]
    values = {field.name: getattr(best, field.name) for field in fields(Candidate)}
    return Generation(**values, prompt_tokens=prompt_tokens, candidates=candidates)
