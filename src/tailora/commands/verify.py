"""`tailora verify`: does an adapter change its base, and does a merged model still compute what its adapter does.

Serving an adapter that changes nothing, or merging into weights so coarse that the update is rounded away, goes wrong
in silence. So logits are compared on texts: with the bare base's, and with those of base and adapter side by side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field
from rich.console import Console

from tailora.adapters import lineage
from tailora.adapters.adapter import Adapter
from tailora.core.errors import CheckError, DataError, SettingsError
from tailora.data import records as record_files
from tailora.data.examples import Example, build_examples
from tailora.data.prompts import PromptFormat
from tailora.data.reading import ReadingSettings
from tailora.data.values import Record
from tailora.engine.backends.torch import TorchBackend
from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine
from tailora.inference.attached import load_adapted
from tailora.inference.setup import Running
from tailora.inference.texts import Prompt, generate
from tailora.models.load import Base, load_base

PROBES = 8
NOTHING = 1e-6
"""Part of the logits' own size below which a change is none: fp32's rounding."""
TOLERANCE = 0.05
"""Drift that is let pass: mean distance to what the adapter does, over mean distance of that to the base."""


class ProbeSettings(ReadingSettings):
    """What to compare on."""

    input: str | None = None
    """Records with texts to compare on; by default bundled ones."""
    split: str | None = None
    """Which split of the input."""
    limit: int = Field(PROBES, ge=1)
    """Only so many records with texts, from the start."""
    new_tokens: int = Field(32, ge=1)
    """Length of the greedy texts that are compared."""
    force: bool = False
    """Accept an adapter that was trained on other weights than the base's."""


class VerifySettings(ProbeSettings):
    """Settings of `tailora verify`."""

    adapter: Path | None = None
    """The adapter: its folder or file, or a run directory; by default those that the model's folder names."""
    model: str | None = None
    """A merged, quantised or converted model to hold against base and adapter; without it the adapter is checked."""
    base: str | None = None
    """Base model; by default the one that the adapter, or the model's folder, names."""
    base_only: bool = False
    """Compare the model with its base alone, without the adapter that was merged into it."""
    tolerance: float = Field(TOLERANCE, gt=0)
    """Drift that is let pass: how far the model is from its adapter, over how far that is from the base."""


@dataclass(frozen=True)
class Reading:
    """What a model makes of the probes.

    Attributes:
        logits: [positions, vocabulary] of all probes, in fp32.
        perplexity: of the texts given their prompts, per token; None where no text has room in the context.
        texts: greedy continuations of the prompts, as token ids.
    """

    logits: torch.Tensor
    perplexity: float | None
    texts: tuple[tuple[int, ...], ...]


def run(settings: VerifySettings) -> dict[str, Any]:
    """Compare, and say what came of it.

    Returns:
        The changes of the logits, the agreement of tokens and texts, perplexities, and `drift` where there is a model.

    Raises:
        CheckError: the adapter or model changes nothing, or the model is too far from what its adapter does.
        UserError: something cannot be read, or does not belong together.
    """
    adapter, base = _meant(settings)
    result = check(
        adapter,
        base,
        settings.model,
        records=records_with_texts(settings),
        tolerance=settings.tolerance,
        new_tokens=settings.new_tokens,
        force=settings.force,
    )
    _tell(result)
    return result


def check(
    adapter: Path | Adapter | None,
    base: str | None,
    model: str | None,
    *,
    records: Sequence[Record] = (),
    tolerance: float = TOLERANCE,
    new_tokens: int = 32,
    force: bool = False,
) -> dict[str, Any]:
    """Compare a base, an adapter on it and a model made of both, two at a time in memory.

    Args:
        adapter: folder, file or value; None to hold the model against the base only.
        base: name or path; None takes the one that the adapter names.
        model: folder of the model; None to hold the adapter against the base only.
        records: to compare on, with texts; by default some bundled ones.
        tolerance: drift that is let pass.
        new_tokens: length of the greedy texts.
        force: accept an adapter of another base.

    Raises:
        CheckError: see `run`.
        UserError: see `run`.
    """
    beside: Reading | None = None
    meta: dict[str, Any] = {}
    if adapter is not None:
        adapted = load_adapted(adapter, base, dtype=torch.float32, force=force)
        assert adapted.adapter is not None
        base, meta = adapted.base.name if base is None else base, dict(adapted.adapter.meta)
        probes = probes_of(records, adapted.base, meta)
        beside = read(adapted.base, probes, new_tokens)
        del adapted
    if base is None:
        raise SettingsError("no base model named", where="base", hint="name it with --base")
    bare = load_base(base, dtype=torch.float32)
    probes = probes_of(records, bare, meta)
    before = read(bare, probes, new_tokens)
    fingerprint = bare.fingerprint
    del bare
    made = None if model is None else read(load_base(model, dtype=torch.float32), probes, new_tokens)
    subject = beside if made is None else made
    if subject is None:
        raise SettingsError("nothing to verify", where="adapter", hint="name an adapter, a model, or both")
    result: dict[str, Any] = {
        "base": base,
        "base_fingerprint": fingerprint,
        "adapter": str(adapter) if isinstance(adapter, Path) else None if adapter is None else adapter.content_hash,
        "model": model,
        "probes": len(probes),
        "positions": len(before.logits),
        "against_base": distance(subject, before),
        "perplexity": {"base": before.perplexity},
    }
    if beside is not None:
        result["perplexity"]["adapter"] = beside.perplexity
    if made is not None:
        result["perplexity"]["model"] = made.perplexity
    if made is not None and beside is not None:
        result["against_adapter"] = distance(made, beside)
        effect = distance(beside, before)["mean"]
        result["drift"] = result["against_adapter"]["mean"] / effect if effect else math.inf
    _judge(result, before, tolerance)
    return result


@torch.no_grad()
def read(base: Base, probes: Sequence[Example], new_tokens: int) -> Reading:
    """What a model makes of the probes, in the type that it is loaded in."""
    model = cast(Any, base.model)
    context = int(model.config.max_position_embeddings)
    logits, loss, scored = [], 0.0, 0
    for probe in probes:
        tokens = torch.tensor((*probe.prompt, *probe.completion)[:context])
        found = model(input_ids=tokens[None]).logits[0].float()
        first = len(probe.prompt) - 1
        if first + 1 < len(tokens):
            chances = torch.log_softmax(found[first:-1], -1)
            loss -= float(chances.gather(1, tokens[first + 1 :, None]).sum())
            scored += len(tokens) - first - 1
        logits.append(found)
    prompts = [Prompt(probe.prompt) for probe in probes if len(probe.prompt) + new_tokens <= context]
    engine = Engine(TorchBackend(base), end=base.tokenizer.end_ids)
    running = Running(engine, base.tokenizer, backend="torch", precision="fp32", device="cpu", built_in=True)
    texts = tuple(made.token_ids for made in generate(running, prompts, Decoding(max_new_tokens=new_tokens)))
    return Reading(torch.cat(logits), math.exp(loss / scored) if scored else None, texts)


def _meant(settings: VerifySettings) -> tuple[Path | Adapter | None, str | None]:
    """The adapter and the base, as given or as the model's folder has them.

    Raises:
        SettingsError: the folder's account cannot be read, or an adapter that was merged is not where it was, so that
            less would be checked than when it was merged.
    """
    adapter, base = settings.adapter, settings.base
    account = None if settings.model is None else Path(settings.model) / "tailora.json"
    if account is None or not account.is_file() or (adapter is not None and base is not None):
        return adapter, base
    try:
        told = json.loads(account.read_text(encoding="utf-8"))
        made_of = told.get("merged") or told["quantised"]
        base = base or str(made_of["base"])
        if adapter is not None or settings.base_only:
            return adapter, base
        return lineage.find(made_of["adapters"], made_of.get("svd"), account.parent), base
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            "not an account of a merged or quantised model", where=account, hint="name --adapter and --base"
        ) from error


def records_with_texts(settings: ProbeSettings) -> list[Record]:
    """The first records that have texts; none where no source is named.

    Raises:
        DataError: there are no such records.
    """
    if settings.input is None:
        return []
    records = settings.load(settings.input, settings.split, texts="optional").records
    texts = [record for record in records if record.references][: settings.limit]
    if not texts:
        raise DataError("no record has a text", where=settings.input, hint="verify on records with texts")
    return texts


def probes_of(records: Sequence[Record], base: Base, meta: Mapping[str, Any]) -> list[Example]:
    """Texts to compare on, one a record (bundled ones where there are none), prompted as an adapter was trained."""
    chosen = records or record_files.read("restaurants", split="test")[:PROBES]
    one = [Record(r.id, r.facts, r.references[:1], prompt=r.prompt) for r in chosen]
    prompts = PromptFormat.of_account(meta, base.tokenizer, base.folder)
    return build_examples(one, base.tokenizer, prompts=prompts)[0]


def distance(one: Reading, other: Reading) -> dict[str, Any]:
    """How far what two models make of the same probes is apart.

    Raises:
        CheckError: they have other vocabularies.
    """
    if one.logits.shape != other.logits.shape:
        raise CheckError(
            f"{one.logits.shape[-1]} tokens in the vocabulary against {other.logits.shape[-1]}",
            where="model",
            hint="name the base that the model was made of",
        )
    change = (one.logits - other.logits).abs()
    return {
        "largest": float(change.max()),
        "mean": float(change.mean()),
        "same_token": float((one.logits.argmax(-1) == other.logits.argmax(-1)).float().mean()),
        "equal_texts": sum(a == b for a, b in zip(one.texts, other.texts, strict=True)),
        "texts": len(one.texts),
    }


def _judge(result: dict[str, Any], before: Reading, tolerance: float) -> None:
    what = "the adapter" if result["model"] is None else "the model"
    where = result["adapter"] if result["model"] is None else result["model"]
    change = result["against_base"]
    if not math.isfinite(change["largest"]):
        raise CheckError(f"{what} gives logits that are no numbers", where=where, hint="make it again", result=result)
    if change["mean"] <= NOTHING * float(before.logits.abs().mean()):
        hint = "see that it was made of this base and that training reached it"
        raise CheckError(f"{what} changes nothing: its logits are the base's", where=where, hint=hint, result=result)
    if result.get("drift", 0.0) > tolerance:
        share = f"{result['drift']:.1%} of the adapter's own effect, where {tolerance:.1%} is let pass"
        hint = "merge into a base in fp32, or serve the adapter beside the base"
        raise CheckError(f"{what} is off by {share}", where=where, hint=hint, result=result)


def _tell(result: dict[str, Any]) -> None:
    console = Console(stderr=True)
    names = {"against_base": "against the base", "against_adapter": "against base and adapter"}
    for key, name in names.items():
        if key in result:
            found = result[key]
            console.print(
                f"{name}: logits differ by {found['largest']:.2g} at most, {found['mean']:.2g} on average; "
                f"the likeliest token is the same at {found['same_token']:.1%} of {result['positions']} positions, "
                f"{found['equal_texts']} of {found['texts']} greedy texts are equal",
                highlight=False,
                soft_wrap=True,
            )
    told = ", ".join(f"{who} {value:.2f}" for who, value in result["perplexity"].items() if value is not None)
    console.print(
        f"perplexity: {told}" if told else "perplexity: the texts are longer than the context", highlight=False
    )
    if "drift" in result:
        console.print(f"drift: {result['drift']:.2%} of what the adapter does", highlight=False)
