"""Choose among a record's candidates by their slot errors, and write further candidates where all have some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from tailora.core.errors import UserError
from tailora.data.values import Fact, Record
from tailora.engine.decoding import Decoding
from tailora.inference.decoding_settings import DecodingSettings
from tailora.inference.texts import Candidate, Generation, Prompt, generation_from
from tailora.metrics.slot_rules import Rules, Vocabulary, load_rules, vocabulary_of
from tailora.metrics.slots import SlotReport, slot_report

ROUND = 8
"""Number of further candidates that are sampled at once."""
TEMPERATURE = 0.7
"""Sampling temperature of further candidates, unless the settings sample themselves."""

Write = Callable[[Sequence[Prompt], Decoding, Callable[[int, Generation], None]], Mapping[int, UserError]]
"""Writes texts after prompts: calls its third argument with the place of a prompt and its generation, and returns the
errors of single prompts by their places."""


class Chosen(NamedTuple):
    """The text of a record.

    Attributes:
        generation: the text, and the candidates to report, the chosen one first.
        slot_errors: the slot errors of the text in words; None if they were not looked for.
    """

    generation: Generation
    slot_errors: tuple[str, ...] | None = None


class Search:
    """The candidates of a record, and their slot errors.

    Args:
        record: the facts to be said.
        vocabulary: see `metrics.slot_rules.vocabulary_of`.
        rules: how facts are found in texts.
        length_penalty: of the score by which further candidates are ordered.

    Attributes:
        first: the candidates that the settings ask for at first.
        reports: the slot report of each candidate, by its text.
    """

    first: Generation

    def __init__(self, record: Record, vocabulary: Vocabulary, rules: Rules, *, length_penalty: float = 1.0) -> None:
        self._record, self._vocabulary, self._rules = record, vocabulary, rules
        self._length_penalty = length_penalty
        self._others: list[Candidate] = []
        self.reports: dict[str, SlotReport] = {}

    @property
    def further(self) -> int:
        """Number of further candidates."""
        return len(self._others)

    def add(self, generation: Generation, ended: Callable[[], bool] = lambda: False) -> None:
        """Judge candidates: those that the settings ask for at first, and further ones afterwards.

        Args:
            generation: the candidates.
            ended: asked before each text; once it is true, nobody needs the result, and no further text is searched.
        """
        if self.reports:
            self._others += generation.candidates
        else:
            self.first = generation
        for text in dict.fromkeys(candidate.text for candidate in generation.candidates):
            if ended():
                return
            if text not in self.reports:
                self.reports[text] = slot_report(self._record, text, self._vocabulary, self._rules)

    @property
    def is_faithful(self) -> bool:
        """Whether a candidate has no slot error."""
        return any(report.errors == 0 for report in self.reports.values())

    def ordered(self) -> Generation:
        """Return all candidates, those with the fewest slot errors first, and then those with the fewest repetitions.

        Among equals, the first candidates precede further ones and keep their order; further ones are ordered by
        log-probability / tokens ** length_penalty.
        """

        def score(candidate: Candidate) -> float:
            return -candidate.logprob / float(max(1, len(candidate.token_ids)) ** self._length_penalty)

        candidates = [*self.first.candidates, *sorted(self._others, key=score)]
        counts = {text: (report.errors, len(report.repeated)) for text, report in self.reports.items()}
        candidates.sort(key=lambda candidate: counts[candidate.text])
        return generation_from(tuple(candidates), self.first.prompt_tokens)

    def slot_errors(self, text: str) -> tuple[str, ...]:
        """Return the slot errors of a candidate in words, for example "missing food: French"."""
        report = self.reports[text]
        kinds = {"missing": report.missing, "added": report.added, "leaked": report.leaked}
        return tuple(f"{kind} {_in_words(fact)}" for kind, facts in kinds.items() for fact in facts)


def _in_words(fact: Fact) -> str:
    subject = "" if fact.subject is None else f"{fact.subject} "
    return f"{subject}{fact.attribute}: {fact.value}"


def further_decoding(decoding: Decoding, done: int, bound: int, most: int = ROUND) -> Decoding | None:
    """Return how the next candidates are sampled after `done` further ones; None if there are `bound` of them.

    Args:
        decoding: of the first candidates.
        done: number of further candidates so far.
        bound: largest number of further candidates.
        most: number of candidates to sample at once.
    """
    count = min(most, bound - done)
    if count <= 0:
        return None
    return replace(
        decoding,
        num_beams=1,
        num_candidates=count,
        temperature=TEMPERATURE if decoding.greedy or decoding.num_beams > 1 else decoding.temperature,
        top_p=decoding.top_p or 1.0,
        seed=decoding.seed + 1 + done // most,
    )


class Judge:
    """How the settings choose the text of a record.

    Args:
        settings: the decoding.
        records: all records of the job, whose values are looked for in every text.
        known: values that the adapters were trained on, which are looked for as well.
    """

    def __init__(
        self, settings: DecodingSettings, records: Sequence[Record], known: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.settings = settings
        self._chooses = settings.rerank is not None or settings.faithful
        self._rules = load_rules(settings.slot_rules).with_known(known or {})
        self._vocabulary: Vocabulary = vocabulary_of(records, self._rules) if self._chooses else {}

    @property
    def rules(self) -> str:
        """The name of the rules by which facts are found."""
        return self._rules.name

    def search(self, record: Record) -> Search | None:
        """Return the search for the text of a record; None if the first candidate is the text."""
        if not self._chooses:
            return None
        return Search(record, self._vocabulary, self._rules, length_penalty=self.settings.length_penalty)

    def chosen(self, search: Search) -> Chosen:
        """Return the text that a search has found."""
        ordered = search.ordered()
        if not self.settings.faithful:
            return Chosen(ordered)
        shown = ordered.candidates[: self.settings.num_candidates]
        return Chosen(generation_from(shown, ordered.prompt_tokens), search.slot_errors(ordered.text))


def write_chosen(
    records: Sequence[Record],
    prompts: Sequence[Prompt],
    judge: Judge,
    write: Write,
    done: Callable[[int, Chosen], None],
) -> dict[int, UserError]:
    """Write a text for each record; records with equal prompts share their candidates.

    With the setting `faithful`, further candidates are sampled for records whose candidates all have slot errors.

    Args:
        records: what to write about.
        prompts: one for each record.
        judge: chooses among the candidates.
        write: writes texts after prompts that all differ; called once for each round.
        done: called with the number of a record and its text as soon as it is chosen.

    Returns:
        The errors of single prompts, by the number of their first record.
    """
    settings = judge.settings
    waiting = _Waiting(records, prompts, judge, done)
    errors: dict[int, UserError] = {}
    first, further = settings.decoding(), 0
    decoding: Decoding | None = first
    while decoding is not None and waiting.prompts:
        following = further_decoding(first, further, settings.faithful_candidates) if settings.faithful else None
        asked = waiting.prompts
        for place, error in write(asked, decoding, partial(waiting.take, asked, following is None)).items():
            errors[waiting.drop(asked[place])] = error
        further += 0 if following is None else following.num_candidates
        decoding = following
    return errors


class _Waiting:
    """The records of a job that have no text yet.

    Args:
        records: of the job.
        prompts: one for each record.
        judge: chooses among the candidates.
        done: called with the number of a record and its text.
    """

    def __init__(
        self, records: Sequence[Record], prompts: Sequence[Prompt], judge: Judge, done: Callable[[int, Chosen], None]
    ) -> None:
        self._judge, self._done = judge, done
        self._searches = [judge.search(record) for record in records]
        self._numbers: dict[Prompt, list[int]] = {}
        for number, prompt in enumerate(prompts):
            self._numbers.setdefault(prompt, []).append(number)

    @property
    def prompts(self) -> list[Prompt]:
        """The different prompts of these records."""
        return list(self._numbers)

    def drop(self, prompt: Prompt) -> int:
        """Give up the records of a prompt, and return the number of the first one."""
        return self._numbers.pop(prompt)[0]

    def take(self, asked: Sequence[Prompt], last: bool, place: int, generation: Generation) -> None:
        """Take the candidates after a prompt; its records whose text is chosen do not wait any longer.

        Args:
            asked: the prompts of the round.
            last: whether there is no further round, so that a text is chosen for each record.
            place: place of the prompt.
            generation: the candidates.
        """
        still = []
        for number in self._numbers.pop(asked[place]):
            search = self._searches[number]
            if search is None:
                self._done(number, Chosen(generation))
                continue
            search.add(generation)
            if last or search.is_faithful:
                self._done(number, self._judge.chosen(search))
            else:
                still.append(number)
        if still:
            self._numbers[asked[place]] = still
