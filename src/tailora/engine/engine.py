"""The engine: requests in, tokens out, many adapters in every step. Used by one thread; see `worker` for more."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tailora.core.errors import ModelError, SettingsError
from tailora.engine.backend import Backend, Row, Step
from tailora.engine.decoding import Alternatives, Completion
from tailora.engine.kv_blocks import BlockPool
from tailora.engine.requests import Group, Request, Samples, group_of
from tailora.engine.scheduler import Job, Plan, Scheduler, Work


@dataclass(frozen=True)
class Event:
    """What a step did for a request.

    Attributes:
        number: the request's, as `submit` gave it.
        tokens: those written by a request of one greedy or sampled completion; empty for others until they are done.
        result: the completions, the best first, once the request is done; None before.
        logprobs: of the tokens.
        top: what else was likely in their places, if it was asked for.
        error: why the request ended without a result; of this request alone, the others go on.
        cached_tokens: tokens of the prompt that the prefix cache held when the request began.
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
    """How busy an engine is, between two steps.

    Attributes:
        running: sequences under way, beams and candidates counted.
        sequences: most that can be.
        waiting: requests that have not begun, or were put back.
        preempted: times that a request was put back for want of blocks.
        blocks_used: blocks of the cache that sequences hold.
        blocks: of the cache.
        slots_used: adapter slots that sequences hold.
        slots: for adapters.
    """

    running: int
    sequences: int
    waiting: int
    preempted: int
    blocks_used: int
    blocks: int
    slots_used: int
    slots: int


class Engine:
    """Continuous batching over one backend: requests join and leave at every step.

    Args:
        backend: what computes.
        end: the base's end-of-text token, or several, each of which ends a text.
        step_tokens: most tokens that a step computes; longer prompts are computed in pieces.
        sequences: most sequences at once, beams and candidates counted; requests beyond wait.
        prefix_cache: whether prompts that begin alike, under the same adapter, are computed once.
        blocks: of the backend's cache to use; by default all.

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
    ) -> None:
        self.backend = backend
        self.ends = frozenset((end,) if isinstance(end, int) else end)
        self._pool = BlockPool(backend.blocks if blocks is None else blocks, backend.block_size)
        self._scheduler = Scheduler(
            self._pool,
            backend.adapter_slots,
            tokens=max(step_tokens, sequences),
            sequences=sequences,
            prefix_cache=prefix_cache,
        )
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._jobs

    @property
    def load(self) -> Load:
        """How busy it is."""
        scheduler, adapter_slots = self._scheduler, self.backend.adapter_slots
        return Load(
            running=sum(len(job.group.sequences) for job in scheduler.running),
            sequences=scheduler.sequences,
            waiting=scheduler.waiting,
            preempted=scheduler.preemptions,
            blocks_used=self._pool.blocks - self._pool.free,
            blocks=self._pool.blocks,
            slots_used=len({job.slot for job in scheduler.running if job.slot >= 0}),
            slots=adapter_slots.slots,
        )

    def submit(self, request: Request) -> int:
        """Queue a request.

        Returns:
            Its number.

        Raises:
            SettingsError: the prompt is empty, too long or no prompt of this vocabulary, or the request can never fit.
            AdapterError: there is no adapter of this name.
        """
        group = self._check(request)
        number = next(self._numbers)
        job = Job(group, number)
        self._jobs[number] = job
        self._scheduler.add(job)
        return number

    def cancel(self, number: int) -> None:
        """Forget a request; its blocks are free at once. Without effect on one that is done."""
        job = self._jobs.pop(number, None)
        if job is not None:
            self._scheduler.remove(job)

    def step(self) -> list[Event]:
        """Compute once for as many sequences as there is room for, and say what came of it.

        An exception that one request causes ends that request, with an event that carries it. What is raised comes
        from the backend, and concerns all.
        """
        plan = self._scheduler.plan()
        failed = [self._end(job, error) for job, error in plan.failed]
        if not plan.work:
            return failed
        self.backend.copy_blocks(plan.copies)
        sampled = [work.sampled for work in plan.work]
        rows = iter(self.backend.run(_step(plan, sampled, self.backend.vocabulary)).rows())
        unusable: dict[int, Exception] = {}
        for work, offsets in zip(plan.work, sampled, strict=True):
            for offset in offsets:
                row = next(rows)
                place = work.sequence.computed + offset + 1
                if not math.isfinite(row.log_z):
                    unusable.setdefault(work.job.number, _not_finite(work.job, place))
                elif work.last and offset == work.count - 1:
                    work.job.rows[work.sequence] = row
                else:
                    work.job.group.score(place, row)
        self._scheduler.settle(plan, without=unusable)
        failed += [self._end(self._jobs[number], error) for number, error in unusable.items()]
        touched = {work.job.number: work.job for work in plan.work if work.last and work.job.number not in unusable}
        return failed + [event for job in touched.values() for event in self._advance(job)]

    def complete(self, requests: Iterable[Request]) -> list[tuple[Completion, ...]]:
        """Run requests to their ends, side by side; their completions in the order of the requests.

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

    def _advance(self, job: Job) -> list[Event]:
        """Let a group choose, once the logits of all its sequences are there."""
        try:
            return self._chosen(job)
        except Exception as error:  # of this request's own decoding or stop strings: the others have no part in it
            return [self._end(job, error)]

    def _end(self, job: Job, error: Exception) -> Event:
        """End a request with an error."""
        self._scheduler.remove(job)
        del self._jobs[job.number]
        return Event(job.number, (), error=error)

    def _chosen(self, job: Job) -> list[Event]:
        group = job.group
        if len(job.rows) < len(group.sequences):
            # A step's scores are overwritten by the next; these have to wait for their neighbours'.
            job.rows = {s: Row(row.logits.copy(), row.tokens.copy(), row.log_z) for s, row in job.rows.items()}
            return []
        going = group.settle([job.rows[sequence] for sequence in group.sequences])
        job.rows = {}
        result = None if going else tuple(group.result())
        if going:
            self._scheduler.branch(job, going)
        else:
            self._scheduler.remove(job)
            del self._jobs[job.number]
        if isinstance(group, Samples) and group.width == 1:
            token = going[0][1] if result is None else result[0].token_ids[-1]
            logprob, top = group.last(0)
            return [Event(job.number, (token,), result, (logprob,), (top,), cached_tokens=group.cached_tokens or 0)]
        return [] if result is None else [Event(job.number, (), result, cached_tokens=group.cached_tokens or 0)]

    def _check(self, request: Request) -> Group:
        backend, decoding = self.backend, request.decoding
        if not 0 < len(request.prompt) < backend.context:
            what = f"the prompt has {len(request.prompt)} tokens; the model takes 1 to {backend.context - 1}"
            raise SettingsError(what, where="prompt", hint="shorten the record")
        if not all(0 <= token < backend.vocabulary for token in request.prompt):
            raise SettingsError(f"token ids go from 0 to {backend.vocabulary - 1}", where="prompt")
        if not all(0 <= token < backend.vocabulary for token, _ in decoding.logit_bias):
            raise SettingsError(f"token ids go from 0 to {backend.vocabulary - 1}", where="logit_bias")
        if not np.isfinite(request.scale):
            raise SettingsError("must be a finite number", where="scale")
        if request.adapter is not None:
            self.backend.adapter_slots.key(request.adapter)
        room = min(decoding.max_new_tokens, backend.context - len(request.prompt))
        group = group_of(request, self.ends, room)
        if group.width > self._scheduler.sequences:
            raise SettingsError(
                f"{group.width} sequences side by side where {self._scheduler.sequences} run at most",
                where="num_beams" if decoding.num_beams > 1 else "num_candidates",
                hint="ask for fewer, or give the engine room for more",
            )
        needed = group.width * self._pool.needed(len(request.prompt) + room)
        if needed > self._pool.blocks:
            raise SettingsError(
                f"takes up to {needed} blocks of the cache, which has {self._pool.blocks}",
                where="max_new_tokens",
                hint="ask for fewer tokens, or give the engine a larger cache",
            )
        return group


def _not_finite(job: Job, place: int) -> ModelError:
    request = job.group.request
    who = "the model" if request.adapter is None else f"the model with the adapter {request.adapter}"
    what = f"{who} gives logits that are not finite after {place} tokens"
    return ModelError(what, hint="run it with --precision fp32, or check the weights")


def _step(plan: Plan, sampled: Sequence[Sequence[int]], vocabulary: int) -> Step:
    """A plan as arrays.

    Args:
        plan: the work.
        sampled: after which of each work's tokens logits are wanted.
        vocabulary: how many token ids there are.
    """
    counts = [work.count for work in plan.work]
    begins = np.cumsum([0, *counts], dtype=np.int32)
    return Step(
        tokens=np.array([token for work in plan.work for token in _tokens(work)], np.int32),
        positions=np.concatenate(
            [np.arange(w.sequence.computed, w.sequence.computed + w.count, dtype=np.int32) for w in plan.work]
        ),
        past=np.array([work.sequence.computed for work in plan.work], np.int32),
        begins=begins,
        blocks=np.array([block for work in plan.work for block in work.sequence.blocks], np.int32),
        block_begins=np.cumsum([0, *(len(work.sequence.blocks) for work in plan.work)], dtype=np.int32),
        slots=np.repeat(np.array([work.job.slot for work in plan.work], np.int32), counts),
        scales=np.repeat(np.array([work.job.group.request.scale for work in plan.work], np.float32), counts),
        best=min(
            vocabulary,
            max((work.job.group.best for work, each in zip(plan.work, sampled, strict=True) if each), default=1),
        ),
        sampled=np.array([b + n for b, each in zip(begins[:-1], sampled, strict=True) for n in each], np.int32),
    )


def _tokens(work: Work) -> Sequence[int]:
    sequence = work.sequence
    return sequence.tokens[sequence.computed : sequence.computed + work.count]
