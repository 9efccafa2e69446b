"""The scheduler: decides which tokens of which sequences the next step computes. No tensors.

Sequences that write come before prompts, and prompts are computed in pieces that fit into a step. Requests wait in
one queue per adapter, and the queues take turns. When blocks run out, the youngest request is
preempted: it returns its blocks and is computed again later. The oldest request always continues.

A prompt is computed once: a request with the prompt and the adapters of one that is being computed waits for it, and
then computes the last token alone, for its logits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from tailora.core.errors import AdapterError
from tailora.engine.adapter_slots import AdapterSlots
from tailora.engine.backend import TokenScores
from tailora.engine.drafting import Predictor
from tailora.engine.kv_blocks import BlockPool, block_keys
from tailora.engine.requests import RequestState, Sequence

SCORED = 64  # largest piece of a scored prompt in a step: each token costs a row of logits


@dataclass(eq=False)
class ScheduledRequest:
    """A request in the scheduler.

    Attributes:
        state: the state of the request.
        number: its place in the order of arrival.
        prompt: identifies its prompt and its adapters.
        slots: slots of its adapters.
        rows: scores of its sequences that are fully computed.
        predictor: predicts the next tokens of its text, for drafts; None before the first draft.
    """

    state: RequestState
    number: int
    prompt: bytes = b""
    slots: tuple[int, ...] = ()
    rows: dict[Sequence, TokenScores] = field(default_factory=dict)
    predictor: Predictor | None = None

    def __post_init__(self) -> None:
        request = self.state.request
        (self.prompt,) = block_keys(repr(request.adapters).encode(), request.prompt, len(request.prompt))

    @property
    def prompt_computed(self) -> bool:
        """Whether all tokens of the prompt are in the cache."""
        return self.state.sequences[0].computed >= len(self.state.request.prompt)


@dataclass(frozen=True)
class Chunk:
    """The next `count` tokens of a sequence; with `last`, the logits after them are needed.

    A draft, of tokens that may come next, is computed after a last chunk, and needs logits after each token.
    """

    job: ScheduledRequest
    sequence: Sequence
    count: int
    last: bool
    draft: tuple[int, ...] = ()

    @property
    def tokens(self) -> list[int]:
        """The tokens to compute, including the draft."""
        begin = self.sequence.computed
        return [*self.sequence.tokens[begin : begin + self.count], *self.draft]

    @property
    def sampled(self) -> list[int]:
        """The tokens, from 0, after which logits are needed: the last one, a draft, and a prompt that is scored."""
        last = list(range(self.count - 1, self.count + len(self.draft))) if self.last else []
        if not self.job.state.scores_prompt:
            return last
        scored = min(self.count, len(self.job.state.request.prompt) - 1 - self.sequence.computed)
        return [*range(max(scored, 0)), *last]


@dataclass
class Plan:
    """A step: its chunks, the blocks to copy before it, and the waiting requests that can never start."""

    chunks: list[Chunk] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    failed: list[tuple[ScheduledRequest, AdapterError]] = field(default_factory=list)


class Scheduler:
    """Decides what the next step computes.

    Args:
        pool: the cache's blocks.
        adapter_slots: the adapters' slots.
        tokens: largest number of tokens in a step.
        sequences: largest number of sequences at once; not above `tokens`.
        prefix_cache: whether sequences with the same beginning share its blocks.
    """

    def __init__(
        self, pool: BlockPool, adapter_slots: AdapterSlots, *, tokens: int, sequences: int, prefix_cache: bool = True
    ) -> None:
        assert sequences <= tokens
        self.pool, self.adapter_slots = pool, adapter_slots
        self.tokens, self.sequences, self.prefix_cache = tokens, sequences, prefix_cache
        self.running: list[ScheduledRequest] = []
        self._queues: dict[tuple[str, ...], deque[ScheduledRequest]] = {}
        self._prompts: dict[bytes, ScheduledRequest] = {}  # a running request of each prompt, computed if there is one
        self.preemptions = 0

    @property
    def waiting(self) -> int:
        """Requests that have not started, or were preempted."""
        return sum(map(len, self._queues.values()))

    def add(self, job: ScheduledRequest) -> None:
        """Queue a request behind those of the same adapters."""
        self._queues.setdefault(_names(job), deque()).append(job)

    def remove(self, job: ScheduledRequest) -> None:
        """Remove a request, done or not."""
        if job in self.running:
            self.running.remove(job)
            self._release(job)
        else:
            queue = self._queues[_names(job)]
            queue.remove(job)

    def plan(self) -> Plan:
        """Return the next step, which is empty only if nothing is queued or running."""
        plan = Plan()
        for job in list(self.running):
            for sequence in job.state.sequences:
                if job in self.running and sequence.pending == 1:
                    self._schedule(plan, job, sequence, 1)
        for job in list(self.running):
            self._continue(plan, job, least=2)
        plan.failed = self._without_adapter()
        self._prompts = {}
        for job in self.running:
            if job.prompt not in self._prompts or job.prompt_computed:
                self._prompts[job.prompt] = job
        while self._admit(plan):
            pass
        return plan

    def draft(self, plan: Plan, drafts: Mapping[ScheduledRequest, tuple[int, ...]]) -> None:
        """Add drafts to the last chunks of a plan, each as far as the step and the free blocks allow."""
        left = self.tokens - self._used(plan)
        for place, chunk in enumerate(plan.chunks):
            own = chunk.sequence.computed + chunk.count
            free = (len(chunk.sequence.blocks) + self.pool.free) * self.pool.size - own
            draft = drafts.get(chunk.job, ())[: min(left, free)] if chunk.last else ()
            left -= len(draft)
            chunk.sequence.blocks += self.pool.take(
                max(0, self.pool.needed(own + len(draft)) - len(chunk.sequence.blocks))
            )
            plan.chunks[place] = replace(chunk, draft=draft)

    def settle(self, plan: Plan, without: Container[int] = ()) -> None:
        """Record that the plan's chunks are in the cache.

        Args:
            plan: as `plan` returned it.
            without: numbers of the jobs whose keys and values must not be shared with other requests.

        A draft counts as far as `accept` is called.
        """
        for chunk in plan.chunks:
            if chunk.job.number in without:
                continue
            self._settle(chunk.job, chunk.sequence, chunk.count)

    def accept(self, job: ScheduledRequest) -> None:
        """Record that the last token of a request's only sequence is in the cache, because a draft contained it."""
        self._settle(job, job.state.sequences[0], 1)

    def trim(self, sequence: Sequence) -> None:
        """Return the blocks that only rejected tokens of a draft needed."""
        needed = self.pool.needed(sequence.computed)
        self.pool.give_back(sequence.blocks[needed:])
        del sequence.blocks[needed:]

    def _settle(self, job: ScheduledRequest, sequence: Sequence, count: int) -> None:
        sequence.computed += count
        full = sequence.computed // self.pool.size
        if self.prefix_cache and full > len(sequence.keys):
            known = len(sequence.keys)
            tokens = sequence.tokens[: full * self.pool.size]
            sequence.keys = block_keys(self._root(job), tokens, self.pool.size, sequence.keys)
            for number in range(known, full):
                self.pool.publish(sequence.blocks[number], sequence.keys[number])

    def branch(self, job: ScheduledRequest, going: Iterable[tuple[int, int]]) -> None:
        """Replace a request's sequences by those that continue, each as its parent's number and the next token."""
        before = job.state.sequences
        after = []
        taken: set[int] = set()
        for parent, token in going:
            source = before[parent]
            if parent in taken:
                self.pool.share(source.blocks)
                source = Sequence(source.tokens[:-1], source.computed, list(source.blocks), list(source.keys))
            taken.add(parent)
            source.tokens.append(token)
            after.append(source)
        for number, sequence in enumerate(before):
            if number not in taken:
                self.pool.give_back(sequence.blocks)
        job.state.sequences = after

    def _used(self, plan: Plan) -> int:
        return sum(chunk.count for chunk in plan.chunks)

    def _continue(self, plan: Plan, job: ScheduledRequest, least: int) -> None:
        """Plan as many tokens as fit for a job's sequences with at least `least` pending tokens."""
        for sequence in job.state.sequences:
            left = self.tokens - self._used(plan)
            if job in self.running and sequence.pending >= least and left > 0:
                count = min(sequence.pending, left)
                self._schedule(plan, job, sequence, min(count, SCORED) if job.state.scores_prompt else count)

    def _schedule(self, plan: Plan, job: ScheduledRequest, sequence: Sequence, count: int) -> None:
        """Plan some tokens of a sequence. If blocks are missing, preempt younger requests, and this one last."""
        while self._lacking(sequence, count) > self.pool.free:
            youngest = max(self.running, key=lambda running: running.number)
            self._preempt(plan, youngest)
            if youngest is job:
                return
        self._reach(plan, sequence, count)
        plan.chunks.append(Chunk(job, sequence, count, count == sequence.pending))

    def _lacking(self, sequence: Sequence, count: int) -> int:
        """Return the number of blocks to take before `count` more tokens can be written."""
        more = self.pool.needed(sequence.computed + count) - len(sequence.blocks)
        return more + self._writes_into_shared(sequence)

    def _writes_into_shared(self, sequence: Sequence) -> bool:
        at = sequence.computed // self.pool.size
        return at < len(sequence.blocks) and self.pool.users(sequence.blocks[at]) > 1

    def _reach(self, plan: Plan, sequence: Sequence, count: int) -> None:
        if self._writes_into_shared(sequence):
            at = sequence.computed // self.pool.size
            (own,) = self.pool.take(1)
            plan.copies.append((sequence.blocks[at], own))
            self.pool.give_back([sequence.blocks[at]])
            sequence.blocks[at] = own
        sequence.blocks += self.pool.take(self.pool.needed(sequence.computed + count) - len(sequence.blocks))

    def _preempt(self, plan: Plan, job: ScheduledRequest) -> None:
        self.preemptions += 1
        gone = [chunk for chunk in plan.chunks if chunk.job is job]
        plan.chunks = [chunk for chunk in plan.chunks if chunk.job is not job]
        owned = {block for chunk in gone for block in chunk.sequence.blocks}
        plan.copies = [(source, target) for source, target in plan.copies if target not in owned]
        self.running.remove(job)
        self._release(job)
        self._queues.setdefault(_names(job), deque()).appendleft(job)

    def _release(self, job: ScheduledRequest) -> None:
        for sequence in job.state.sequences:
            self.pool.give_back(sequence.blocks)
            sequence.blocks, sequence.keys, sequence.computed = [], [], 0
        job.rows.clear()
        self.adapter_slots.release(job.slots)
        job.slots = ()

    def _without_adapter(self) -> list[tuple[ScheduledRequest, AdapterError]]:
        """Return the waiting requests whose adapter was unregistered. They stay queued until they are removed."""
        failed = []
        for names, queue in self._queues.items():
            missing = [name for name in names if name not in self.adapter_slots]
            if missing and queue:
                error = AdapterError("was unregistered while the request waited", where=missing[0], hint="retry")
                failed += [(job, error) for job in queue]
        return failed

    def _admit(self, plan: Plan) -> bool:
        """Start one request, of the adapters that were served longest ago; return False if none fits."""
        if self._used(plan) >= self.tokens:
            return False
        busy = sum(job.state.width for job in self.running)
        self._queues = {names: queue for names, queue in self._queues.items() if queue}
        for names, queue in self._queues.items():
            if any(name not in self.adapter_slots for name in names):
                continue
            job = next((job for job in queue if not self._waits_for_prompt(job)), None)
            if job is None:
                continue
            if busy and busy + job.state.width > self.sequences:
                return False  # smaller requests must not starve it
            slots = self.adapter_slots.acquire(names)
            if slots is None:
                continue  # all slots are in use: requests whose adapters have one may start
            if not self._find_room(plan, job):
                self.adapter_slots.release(slots)
                return False
            queue.remove(job)
            self._queues[names] = self._queues.pop(names)
            job.slots = slots
            if job.state.cached_tokens is None:  # a preempted request would find its own blocks
                job.state.cached_tokens = job.state.sequences[0].computed
            self.running.append(job)
            self._prompts.setdefault(job.prompt, job)
            self.running.sort(key=lambda running: running.number)
            self._continue(plan, job, least=1)
            return True
        return False

    def _waits_for_prompt(self, job: ScheduledRequest) -> bool:
        """Return whether a running request is computing the prompt that this one needs."""
        if not self.prefix_cache or job.state.scores_prompt or len(job.state.request.prompt) == 1:
            return False
        other = self._prompts.get(job.prompt)
        return other is not None and other in self.running and not other.prompt_computed

    def _find_room(self, plan: Plan, job: ScheduledRequest) -> bool:
        """Return whether there are blocks for the tokens of a job in this step, and one more for running sequences."""
        left = self.tokens - self._used(plan)
        lacking = 0
        for sequence in job.state.sequences:
            self._find_prefix(job, sequence)
            count = min(sequence.pending, left)
            left -= count
            lacking += self._lacking(sequence, count)
        if lacking + bool(self.running) <= self.pool.free:
            return True
        for sequence in job.state.sequences:
            self.pool.give_back(sequence.blocks)
            sequence.blocks, sequence.keys, sequence.computed = [], [], 0
        return False

    def _find_prefix(self, job: ScheduledRequest, sequence: Sequence) -> None:
        """Share the blocks of an equal prefix; the last token is always computed, for its logits."""
        if not self.prefix_cache or job.state.scores_prompt:
            return
        keys = block_keys(self._root(job), sequence.tokens[:-1], self.pool.size)
        sequence.blocks = self.pool.find(keys)
        self.pool.share(sequence.blocks)
        sequence.keys = keys[: len(sequence.blocks)]
        sequence.computed = len(sequence.blocks) * self.pool.size
        self._find_prompt(job, sequence)

    def _find_prompt(self, job: ScheduledRequest, sequence: Sequence) -> None:
        """Share the blocks of a running request with the same prompt, the one that is not full included."""
        other, last = self._prompts.get(job.prompt), len(job.state.request.prompt) - 1
        if other is None or other not in self.running or not other.prompt_computed or last <= sequence.computed:
            return
        source = other.state.sequences[0]
        self.pool.give_back(sequence.blocks)
        sequence.blocks = source.blocks[: self.pool.needed(last)]
        self.pool.share(sequence.blocks)
        sequence.keys = source.keys[: last // self.pool.size]
        sequence.computed = last

    def _root(self, job: ScheduledRequest) -> bytes:
        adapters = sorted((self.adapter_slots.key(name), weight) for name, weight in job.state.request.adapters)
        return " ".join(f"{key} {weight!r}" for key, weight in adapters).encode()


def _names(job: ScheduledRequest) -> tuple[str, ...]:
    return tuple(name for name, _ in job.state.request.adapters)
