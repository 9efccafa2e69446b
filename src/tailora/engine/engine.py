"""The engine: continuous batching of requests for many adapters. Used by one thread; `worker` serves several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tailora.core.errors import ModelError, SettingsError
from tailora.data.mixtures import Mixture
from tailora.engine.arrays import Floats, Ints
from tailora.engine.backend import Backend, Step, TokenScores
from tailora.engine.decoding import Alternatives, Completion
from tailora.engine.drafting import Drafter, OpenText
from tailora.engine.kv_blocks import BlockPool
from tailora.engine.requests import Request, RequestState, Samples, state_of
from tailora.engine.scheduler import Chunk, Plan, ScheduledRequest, Scheduler


@dataclass(frozen=True)
class Event:
    """The result of a step for a request.

    Attributes:
        number: number of the request, as `submit` returned it.
        tokens: the new tokens, for requests of one greedy or sampled completion; empty for others.
        result: the completions, the best first, once the request is done; None before.
        logprobs: log-probabilities of the new tokens.
        top: the likeliest tokens in their places, if requested.
        error: the error that ended this request; other requests are not affected.
        cached_tokens: number of prompt tokens in the prefix cache when the request began.
    """

    number: int
    tokens: tuple[int, ...]
    result: tuple[Completion, ...] | None = None
    logprobs: tuple[float, ...] = ()
    top: tuple[Alternatives, ...] = ()
    error: Exception | None = None
    cached_tokens: int = 0


@dataclass(frozen=True)
class Load:
    """How busy an engine is between two steps.

    Attributes:
        running: number of sequences in progress, including beams and candidates.
        sequences: largest number of sequences.
        waiting: number of requests that have not started, or were preempted.
        preempted: how often a request was preempted for lack of blocks.
        drafted: number of drafted tokens so far.
        accepted: number of these that the texts contain.
        blocks_used: number of cache blocks in use.
        blocks: number of cache blocks.
        slots_used: number of adapter slots in use.
        slots: number of adapter slots.
    """

    running: int
    sequences: int
    waiting: int
    preempted: int
    blocks_used: int
    blocks: int
    slots_used: int
    slots: int
    drafted: int = 0
    accepted: int = 0


class Engine:
    """Continuous batching over one backend: requests join and leave at every step.

    Args:
        backend: the network, its cache and its adapter slots.
        end: the base's end-of-text token or tokens.
        step_tokens: largest number of tokens in a step; longer prompts are computed in pieces.
        sequences: largest number of sequences at once, including beams and candidates; other requests wait.
        prefix_cache: whether a common beginning of prompts with the same adapter is computed once.
        blocks: number of the backend's cache blocks to use; by default all.
        drafter: drafts tokens that a step verifies; None writes one token of a text in a step.

    Attributes:
        ends: the end-of-text tokens.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        end: int | Iterable[int],
        step_tokens: int = 512,
        sequences: int = 64,
        prefix_cache: bool = True,
        blocks: int | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.backend = backend
        self.drafter = drafter
        self.ends = frozenset((end,) if isinstance(end, int) else end)
        self._pool = BlockPool(backend.blocks if blocks is None else blocks, backend.block_size)
        self._scheduler = Scheduler(
            self._pool,
            backend.adapter_slots,
            tokens=max(step_tokens, sequences),
            sequences=sequences,
            prefix_cache=prefix_cache,
        )
        self._jobs: dict[int, ScheduledRequest] = {}
        self._numbers = itertools.count()
        self._drafted = self._accepted = 0

    @property
    def idle(self) -> bool:
        """Whether no request is queued or running."""
        return not self._jobs

    @property
    def load(self) -> Load:
        """The load after the last step."""
        scheduler, adapter_slots = self._scheduler, self.backend.adapter_slots
        return Load(
            running=sum(len(job.state.sequences) for job in scheduler.running),
            sequences=scheduler.sequences,
            waiting=scheduler.waiting,
            preempted=scheduler.preemptions,
            blocks_used=self._pool.blocks - self._pool.free,
            blocks=self._pool.blocks,
            slots_used=len({slot for job in scheduler.running for slot in job.slots}),
            slots=adapter_slots.slots,
            drafted=self._drafted,
            accepted=self._accepted,
        )

    def submit(self, request: Request) -> int:
        """Queue a request.

        Returns:
            Its number.

        Raises:
            SettingsError: the prompt is empty, too long, or has unknown token ids, or the request can never fit.
            AdapterError: the adapter is not registered.
        """
        state = self._check(request)
        number = next(self._numbers)
        job = ScheduledRequest(state, number)
        self._jobs[number] = job
        self._scheduler.add(job)
        return number

    def cancel(self, number: int) -> None:
        """Drop a request and free its blocks. Has no effect on a request that is done."""
        job = self._jobs.pop(number, None)
        if job is not None:
            self._scheduler.remove(job)

    def step(self) -> list[Event]:
        """Run one step for as many sequences as fit, and return what happened.

        An exception caused by one request ends that request with an event that contains it. An exception of the backend
        is raised, and affects all requests.
        """
        plan = self._scheduler.plan()
        failed = [self._end(job, error) for job, error in plan.failed]
        if not plan.chunks:
            return failed
        self._draft(plan)
        self.backend.copy_blocks(plan.copies)
        sampled = [chunk.sampled for chunk in plan.chunks]
        rows = iter(self.backend.run(_step(plan, sampled, self.backend.vocabulary)).rows())
        unusable: dict[int, Exception] = {}
        following: dict[int, list[TokenScores]] = {}  # the scores after the tokens of drafts
        for chunk, offsets in zip(plan.chunks, sampled, strict=True):
            for offset in offsets:
                row = next(rows)
                place = chunk.sequence.computed + offset + 1
                if offset >= chunk.count:
                    following.setdefault(chunk.job.number, []).append(row)
                elif not math.isfinite(row.log_z):
                    unusable.setdefault(chunk.job.number, _not_finite(chunk.job, place))
                elif chunk.last and offset == chunk.count - 1:
                    chunk.job.rows[chunk.sequence] = row
                else:
                    chunk.job.state.score(place, row)
        self._scheduler.settle(plan, without=unusable)
        failed += [self._end(self._jobs[number], error) for number, error in unusable.items()]
        touched = {chunk.job: chunk.draft for chunk in plan.chunks if chunk.last and chunk.job.number not in unusable}
        return failed + [
            event
            for job, draft in touched.items()
            for event in self._advance(job, list(zip(draft, following.get(job.number, ()), strict=True)))
        ]

    def complete(self, requests: Iterable[Request]) -> list[tuple[Completion, ...]]:
        """Run requests together until all are done, and return their completions in the order of the requests.

        Raises:
            SettingsError: see `submit`; nothing is run then.
            AdapterError: see `submit`, or an adapter was unregistered while a request waited for it.
            ModelError: logits are not finite.
        """
        numbers: list[int] = []
        try:
            numbers += (self.submit(request) for request in requests)
            done = dict(self._drain(set(numbers)))
        except BaseException:
            for number in numbers:
                self.cancel(number)
            raise
        return [done[number] for number in numbers]

    def _drain(self, numbers: set[int]) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        left = set(numbers)
        while left:
            for event in self.step():
                if event.error is not None and event.number in left:
                    raise event.error
                if event.result is not None and event.number in left:
                    left.remove(event.number)
                    yield event.number, event.result

    def _draft(self, plan: Plan) -> None:
        """Add drafts to the plan, for texts that are alone in their requests."""
        if self.drafter is None:
            return
        texts: dict[ScheduledRequest, OpenText] = {}
        for chunk in plan.chunks:
            job, room = chunk.job, chunk.job.state.room_after_next
            if chunk.last and room > 0:
                if job.predictor is None:
                    names = [name for name, _ in sorted(job.state.request.adapters, key=lambda part: -abs(part[1]))]
                    job.predictor = self.drafter.predictor(job.state.request.prompt, names)
                texts[job] = OpenText(job.predictor, room)
        drafts = self.drafter.draft(list(texts.values()), sum(chunk.count for chunk in plan.chunks))
        self._scheduler.draft(plan, dict(zip(texts, drafts, strict=True)))

    def _advance(self, job: ScheduledRequest, draft: list[tuple[int, TokenScores]]) -> list[Event]:
        """Let a request choose tokens once the logits of all its sequences are computed.

        Args:
            job: the request.
            draft: the tokens of its draft, with the scores after each of them.
        """
        try:
            return self._chosen(job, draft)
        except Exception as error:  # from the decoding or the stop strings of this request: others are not affected
            return [self._end(job, error)]

    def _end(self, job: ScheduledRequest, error: Exception) -> Event:
        """End a request with an error."""
        self._scheduler.remove(job)
        del self._jobs[job.number]
        return Event(job.number, (), error=error)

    def _chosen(self, job: ScheduledRequest, draft: list[tuple[int, TokenScores]]) -> list[Event]:
        state = job.state
        if len(job.rows) < len(state.sequences):
            # The next step overwrites these scores, which have to wait for those of the other sequences.
            job.rows = {s: TokenScores(row.logits.copy(), row.tokens.copy(), row.log_z) for s, row in job.rows.items()}
            return []
        going = state.settle([job.rows[sequence] for sequence in state.sequences])
        job.rows = {}
        if isinstance(state, Samples) and state.width == 1:
            return [self._written(job, state, going, draft)]
        if going:
            self._scheduler.branch(job, going)
            return []
        result = self._finish(job)
        return [Event(job.number, (), result, cached_tokens=state.cached_tokens or 0)]

    def _written(
        self, job: ScheduledRequest, state: Samples, going: list[tuple[int, int]], draft: list[tuple[int, TokenScores]]
    ) -> Event:
        """Continue a single text by the token it has chosen, and by those of its draft that it chooses too."""
        self._drafted += len(draft)
        tokens: list[int] = []
        scores: list[tuple[float, Alternatives]] = []
        verified = iter(draft)
        while True:
            tokens.append(going[0][1] if going else state.result()[0].token_ids[-1])
            scores.append(state.last(0))
            if job.predictor is not None:
                job.predictor.add(tokens[-1])
            if not going:
                break
            self._scheduler.branch(job, going)
            drafted, row = next(verified, (None, None))
            if row is None or drafted != tokens[-1]:
                self._scheduler.trim(state.sequences[0])
                break
            self._accepted += 1
            self._scheduler.accept(job)
            if not math.isfinite(row.log_z):
                raise _not_finite(job, len(state.sequences[0].tokens))
            going = state.settle([row])
        result = None if going else self._finish(job)
        logprobs, top = zip(*scores, strict=True)
        return Event(job.number, tuple(tokens), result, logprobs, top, cached_tokens=state.cached_tokens or 0)

    def _finish(self, job: ScheduledRequest) -> tuple[Completion, ...]:
        self._scheduler.remove(job)
        del self._jobs[job.number]
        return tuple(job.state.result())

    def _check(self, request: Request) -> RequestState:
        backend, decoding = self.backend, request.decoding
        if not 0 < len(request.prompt) < backend.context:
            what = f"the prompt has {len(request.prompt)} tokens; the model accepts 1 to {backend.context - 1}"
            raise SettingsError(what, where="prompt", hint="shorten the record")
        if not all(0 <= token < backend.vocabulary for token in request.prompt):
            raise SettingsError(
                f"token ids must be from 0 to {backend.vocabulary - 1}",
                where="prompt",
                hint="use the model's tokenizer",
            )
        if not all(0 <= token < backend.vocabulary for token, _ in decoding.logit_bias):
            raise SettingsError(f"token ids must be from 0 to {backend.vocabulary - 1}", where="logit_bias")
        self._check_adapters(request.adapters)
        room = min(decoding.max_new_tokens, backend.context - len(request.prompt))
        state = state_of(request, self.ends, room)
        if state.width > self._scheduler.sequences:
            raise SettingsError(
                f"needs {state.width} sequences at once (limit of the engine: {self._scheduler.sequences})",
                where="num_beams" if decoding.num_beams > 1 else "num_candidates",
                hint="request fewer, or start the engine with more sequences",
            )
        needed = state.width * self._pool.needed(len(request.prompt) + room)
        if needed > self._pool.blocks:
            raise SettingsError(
                f"can need {needed} cache blocks (limit of the engine: {self._pool.blocks})",
                where="max_new_tokens",
                hint="request fewer tokens, or start the engine with a larger cache",
            )
        return state

    def _check_adapters(self, adapters: Mixture) -> None:
        slots = self.backend.adapter_slots
        names = [name for name, _ in adapters]
        for name in names:
            slots.key(name)
        if len(set(names)) < len(names):
            raise SettingsError("an adapter is named twice", where="adapters", hint="add its weights")
        if not all(np.isfinite(weight) for _, weight in adapters):
            raise SettingsError("every weight must be a finite number", where="adapters")
        if len(names) > max(1, slots.together):
            what = f"names {len(names)} adapters (limit of the engine for one text: {slots.together})"
            raise SettingsError(what, where="adapters", hint="merge some of them beforehand with `tailora merge`")


def _not_finite(job: ScheduledRequest, place: int) -> ModelError:
    request = job.state.request
    names = " and ".join(name for name, _ in request.adapters)
    who = f"the model with the adapter {names}" if names else "the model"
    what = f"{who} computes logits that are not finite after {place} tokens"
    return ModelError(what, hint="run it with --precision fp32, or check the weights")


def _step(plan: Plan, sampled: Sequence[Sequence[int]], vocabulary: int) -> Step:
    """Build the arrays of a planned step.

    Args:
        plan: the chunks to compute.
        sampled: for each chunk, the tokens after which logits are computed.
        vocabulary: number of token ids.
    """
    counts = [chunk.count + len(chunk.draft) for chunk in plan.chunks]
    slots, scales = _adapters_of(plan.chunks)
    begins = np.cumsum([0, *counts], dtype=np.int32)
    return Step(
        tokens=np.array([token for chunk in plan.chunks for token in chunk.tokens], np.int32),
        positions=np.concatenate(
            [
                np.arange(chunk.sequence.computed, chunk.sequence.computed + count, dtype=np.int32)
                for chunk, count in zip(plan.chunks, counts, strict=True)
            ]
        ),
        past=np.array([chunk.sequence.computed for chunk in plan.chunks], np.int32),
        begins=begins,
        blocks=np.array([block for chunk in plan.chunks for block in chunk.sequence.blocks], np.int32),
        block_begins=np.cumsum([0, *(len(chunk.sequence.blocks) for chunk in plan.chunks)], dtype=np.int32),
        slots=np.repeat(slots, counts, axis=0),
        scales=np.repeat(scales, counts, axis=0),
        best=min(
            vocabulary,
            max(
                (chunk.job.state.best for chunk, offsets in zip(plan.chunks, sampled, strict=True) if offsets),
                default=1,
            ),
        ),
        sampled=np.array([b + n for b, offsets in zip(begins[:-1], sampled, strict=True) for n in offsets], np.int32),
    )


def _adapters_of(chunks: Sequence[Chunk]) -> tuple[Ints, Floats]:
    """Return the slots [chunks, A] and the scales [chunks, A] of each chunk's adapters; see `backend.Step`."""
    most = max(1, *(len(chunk.job.slots) for chunk in chunks))
    slots = np.full((len(chunks), most), -1, np.int32)
    scales = np.zeros((len(chunks), most), np.float32)
    for row, chunk in enumerate(chunks):
        own = chunk.job.slots
        slots[row, : len(own)] = own
        scales[row, : len(own)] = [weight for _, weight in chunk.job.state.request.adapters][: len(own)]
    return slots, scales
