"""Token by token: greedy search, sampling and beam search over any causal language model of transformers.

A plain batch decoder in token ids. Rows that are done leave the batch. What a row gives does not depend on the
rows beside it, up to rounding: padding stands on the left under an attention mask with position ids that count
from each prompt's own start, and every sampled row draws from a stream of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tailora.errors import SettingsError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Decoding:
    """How to write.

    Attributes:
        max_new_tokens: most tokens a completion may have, the end-of-text token included.
        num_beams: beams kept side by side; 1 is greedy search or sampling.
        length_penalty: beams are ranked by log-probability / tokens ** length_penalty, as in transformers.
        no_repeat_ngram_size: no run of so many tokens comes twice within a completion; 0 allows it. Unlike
            transformers' option of this name it leaves the prompt alone, whose values a text has to repeat.
        temperature: logits are divided by it before a token is drawn; 0 takes the likeliest token.
        top_k: draw only from so many likeliest tokens; 0 from all.
        top_p: draw only from the fewest tokens whose probabilities reach this sum (Holtzman et al. 2020).
        num_candidates: completions for each prompt: the best of the beams, or so many draws.
        seed: of the draws.

    Raises:
        SettingsError: a value out of its range, or a combination that has no meaning.
    """

    max_new_tokens: int = 100
    num_beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    num_candidates: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "num_candidates"):
            if getattr(self, name) < 1:
                raise SettingsError("must be at least 1", where=name)
        for name in ("no_repeat_ngram_size", "temperature", "top_k"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError("must be at least 0", where=name)
        if not 0 < self.top_p <= 1:
            raise SettingsError("must be above 0 and at most 1", where="top_p")
        if not math.isfinite(self.length_penalty):
            raise SettingsError("must be a finite number", where="length_penalty")
        if self.num_beams > 1 and self.temperature > 0:
            raise SettingsError("beams are not sampled", where="temperature", mend="set num_beams=1 or temperature=0")
        if self.num_beams > 1 and self.num_candidates > self.num_beams:
            raise SettingsError("more than there are beams", where="num_candidates", mend="raise num_beams")
        if self.num_beams == 1 and self.temperature == 0 and self.num_candidates > 1:
            raise SettingsError(
                "greedy search has one result", where="num_candidates", mend="raise num_beams or temperature"
            )


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    Attributes:
        token_ids: with the end-of-text token if it wrote one.
        logprob: sum of the tokens' log-probabilities in nats under the model itself (temperature 1, nothing banned).
        finish_reason: "stop" at the end-of-text token, "length" where the room ended.
    """

    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: FinishReason


def decode(model: Any, prompts: Sequence[Sequence[int]], decoding: Decoding, *, eos_id: int) -> list[list[Completion]]:
    """Complete a batch of prompts side by side; the best completion of each comes first.

    Args:
        model: a causal language model of transformers in eval mode.
        prompts: token ids, at least one each; each leaves room for a token in the model's context.
        decoding: how.
        eos_id: the end-of-text token.

    Raises:
        SettingsError: a prompt is empty or fills the model's context.
    """
    context = context_length(model) or max(map(len, prompts), default=0) + decoding.max_new_tokens
    for number, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            what = f"prompt {number} has {len(prompt)} tokens; the model takes 1 to {context - 1}"
            raise SettingsError(what, mend="shorten the record")
    room = [min(decoding.max_new_tokens, context - len(prompt)) for prompt in prompts]
    if not prompts:
        return []
    with torch.inference_mode():
        search = _beam_search if decoding.num_beams > 1 else _sample
        return search(_Rows(model, prompts), prompts, room, decoding, eos_id)


def context_length(model: Any) -> int | None:
    """Most tokens that prompt and completion may have together; None if the architecture sets no limit."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    return limit


class _Rows:
    """The sequences a network is working on: their cached keys and values, attention mask and lengths."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        device = model.get_input_embeddings().weight.device
        longest = max(map(len, prompts))
        tokens_RT = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask_RT = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        self._mask_RT = mask_RT.to(device)
        positions_RT = (self._mask_RT.cumsum(1) - 1).clamp(min=0)
        self._next_R = positions_RT[:, -1] + 1
        self._cache: Any = None
        self.logits_RV = self._forward(tokens_RT.to(device), positions_RT)

    def step(self, tokens: Sequence[int]) -> None:
        """Append one token to each row; `logits_RV` is then about the next."""
        tokens_R = torch.tensor(tokens, device=self._mask_RT.device)
        self._mask_RT = torch.cat([self._mask_RT, self._mask_RT.new_ones(len(tokens), 1)], dim=1)
        self.logits_RV = self._forward(tokens_R[:, None], self._next_R[:, None])
        self._next_R = self._next_R + 1

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order; a row may come several times. `logits_RV` is left as it is."""
        if list(rows) == list(range(len(self._next_R))):
            return
        rows_R = torch.tensor(rows, device=self._mask_RT.device)
        self._mask_RT = self._mask_RT[rows_R]
        self._next_R = self._next_R[rows_R]
        self._cache.reorder_cache(rows_R)

    def _forward(self, tokens_RT: Tensor, positions_RT: Tensor) -> Tensor:
        output = self._model(
            input_ids=tokens_RT,
            attention_mask=self._mask_RT,
            position_ids=positions_RT,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        logits_RV: Tensor = output.logits[:, -1].float()
        return logits_RV


@dataclass
class _Row:
    """A sampled or greedy completion in the making."""

    prompt: int
    draws: list[float]
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0


def _sample(
    rows: _Rows, prompts: Sequence[Sequence[int]], room: list[int], decoding: Decoding, eos_id: int
) -> list[list[Completion]]:
    copies = range(decoding.num_candidates)
    running = [_Row(i, _draws(prompts[i], copy, decoding)) for i in range(len(prompts)) for copy in copies]
    logits_RV = rows.logits_RV.repeat_interleave(len(copies), dim=0)
    rows.select([row.prompt for row in running])
    results: list[list[tuple[int, Completion]]] = [[] for _ in prompts]
    order = {id(row): number for number, row in enumerate(running)}
    while running:
        logprobs_RV = logits_RV.log_softmax(-1)
        _ban_repeats(logits_RV, [row.tokens for row in running], decoding.no_repeat_ngram_size)
        if decoding.temperature > 0:
            chosen_R = _draw(logits_RV, [row.draws[len(row.tokens)] for row in running], decoding)
        else:
            chosen_R = logits_RV.argmax(-1)
        gained = logprobs_RV.gather(1, chosen_R[:, None])[:, 0].tolist()
        for row, token, logprob in zip(running, chosen_R.tolist(), gained, strict=True):
            row.tokens.append(token)
            row.logprob += logprob
        kept = []
        for number, row in enumerate(running):
            ended = row.tokens[-1] == eos_id
            if ended or len(row.tokens) == room[row.prompt]:
                completion = Completion(tuple(row.tokens), row.logprob, "stop" if ended else "length")
                results[row.prompt].append((order[id(row)], completion))
            else:
                kept.append(number)
        running = [running[number] for number in kept]
        if running:
            rows.select(kept)
            rows.step([row.tokens[-1] for row in running])
            logits_RV = rows.logits_RV
    return [[completion for _, completion in sorted(found, key=lambda pair: pair[0])] for found in results]


def _draws(prompt: Sequence[int], copy: int, decoding: Decoding) -> list[float]:
    """Uniform numbers for each token of a completion, from the seed and the prompt alone."""
    if decoding.temperature == 0:
        return []
    key = hashlib.sha256(f"{decoding.seed} {copy} {list(prompt)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=True))
    draws: list[float] = torch.rand(decoding.max_new_tokens, generator=generator, dtype=torch.float64).tolist()
    return draws


def _draw(logits_RV: Tensor, draws: list[float], decoding: Decoding) -> Tensor:
    """A token for each row by inversion: the first whose cumulative probability passes the row's uniform number."""
    scaled_RV = logits_RV / decoding.temperature
    if 0 < decoding.top_k < scaled_RV.shape[-1]:
        ranked_RV, order_RV = scaled_RV.topk(decoding.top_k)
    else:
        ranked_RV, order_RV = scaled_RV.sort(descending=True)
    probabilities_RV = ranked_RV.softmax(-1).double()
    before_RV = probabilities_RV.cumsum(-1) - probabilities_RV
    probabilities_RV = probabilities_RV.masked_fill(before_RV >= decoding.top_p, 0.0)
    cumulative_RV = probabilities_RV.cumsum(-1)
    sought_R1 = torch.tensor(draws, dtype=torch.float64, device=logits_RV.device)[:, None] * cumulative_RV[:, -1:]
    rank_R1 = (cumulative_RV <= sought_R1).sum(-1, keepdim=True).clamp(max=ranked_RV.shape[-1] - 1)
    return order_RV.gather(1, rank_R1)[:, 0]


def _ban_repeats(scores_RV: Tensor, histories: Sequence[Sequence[int]], size: int) -> None:
    """Set to -inf, in place, every token that would end an n-gram which its history holds already."""
    if size == 0:
        return
    for row, history in enumerate(histories):
        tail = tuple(history[len(history) - size + 1 :])
        starts = range(len(history) - size + 1)
        banned = [history[start + size - 1] for start in starts if tuple(history[start : start + size - 1]) == tail]
        scores_RV[row, banned] = -math.inf


@dataclass
class _Search:
    """The beams of one prompt: those running, best first, and those that ended, with what they are ranked by."""

    prompt: int
    width: int
    penalty: float
    tokens: list[list[int]]
    logprobs: list[float]
    ended: list[tuple[float, Completion]] = field(default_factory=list)

    def advance(self, choices: Sequence[tuple[float, int, int]], eos_id: int) -> list[int]:
        """Take the next step from choices (log-probability, beam, token), best first; give each new beam's parent.

        An ending counts only among the best `width` choices, else poor short texts would fill the list.
        """
        tokens: list[list[int]] = []
        logprobs: list[float] = []
        parents: list[int] = []
        for rank, (logprob, beam, token) in enumerate(choices):
            if token == eos_id:
                if rank < self.width:
                    self._end([*self.tokens[beam], token], logprob, "stop")
            elif len(parents) < self.width:
                tokens.append([*self.tokens[beam], token])
                logprobs.append(logprob)
                parents.append(beam)
        self.tokens, self.logprobs = tokens, logprobs
        return parents

    def is_done(self) -> bool:
        """Whether no running beam, as it stands, would still enter the list of the best."""
        best = max(self.logprobs, default=-math.inf)
        if best == -math.inf:
            return True
        return len(self.ended) >= self.width and self.ended[self.width - 1][0] >= self._rank(best, len(self.tokens[0]))

    def end_all(self) -> None:
        """The room has ended: what is running counts as it is."""
        for tokens, logprob in zip(self.tokens, self.logprobs, strict=True):
            self._end(tokens, logprob, "length")

    def _end(self, tokens: list[int], logprob: float, reason: FinishReason) -> None:
        if logprob > -math.inf:
            self.ended.append((self._rank(logprob, len(tokens)), Completion(tuple(tokens), logprob, reason)))
            self.ended.sort(key=lambda pair: -pair[0])
            del self.ended[self.width :]

    def _rank(self, logprob: float, length: int) -> float:
        return logprob / float(length**self.penalty)


def _beam_search(
    rows: _Rows, prompts: Sequence[Sequence[int]], room: list[int], decoding: Decoding, eos_id: int
) -> list[list[Completion]]:
    """Beam search with transformers' rule for when to stop (its `early_stopping=False`)."""
    width = decoding.num_beams
    searches = [
        _Search(i, width, decoding.length_penalty, [[] for _ in range(width)], [0.0] + [-math.inf] * (width - 1))
        for i in range(len(prompts))
    ]
    running = searches
    logits_RV = rows.logits_RV.repeat_interleave(width, dim=0)
    rows.select([search.prompt for search in searches for _ in range(width)])
    while running:
        scores_RV = logits_RV.log_softmax(-1)
        _ban_repeats(scores_RV, [beam for search in running for beam in search.tokens], decoding.no_repeat_ngram_size)
        scores_RV += torch.tensor([p for search in running for p in search.logprobs], device=scores_RV.device)[:, None]
        vocabulary = scores_RV.shape[-1]
        best = scores_RV.view(len(running), -1).topk(2 * width)
        kept: list[int] = []
        going: list[_Search] = []
        for number, search in enumerate(running):
            values, places = best.values[number].tolist(), best.indices[number].tolist()
            choices = [(value, *divmod(place, vocabulary)) for value, place in zip(values, places, strict=True)]
            parents = search.advance(choices, eos_id)
            if len(search.tokens[0]) == room[search.prompt]:
                search.end_all()
            elif not search.is_done():
                kept += [number * width + parent for parent in parents]
                going.append(search)
        running = going
        if running:
            rows.select(kept)
            rows.step([tokens[-1] for search in running for tokens in search.tokens])
            logits_RV = rows.logits_RV
    return [[completion for _, completion in search.ended[: decoding.num_candidates]] for search in searches]
