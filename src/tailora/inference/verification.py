"""Verification: an adapter compared with its bare base, and a model made of both compared with each.

Serving an adapter that changes nothing, or merging into weights so coarse that the update is rounded away, goes wrong
in silence. So logits are compared on texts: with the bare base's, and with those of base and adapter side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tailora.adapters.adapter import Adapter
from tailora.core.errors import CheckError, SettingsError
from tailora.data.values import Record
from tailora.inference.attached import load_adapted
from tailora.inference.probes import Reading, distance, probes_of, reading_of
from tailora.models.load import load_base

NOTHING = 1e-6
"""Part of the logits' own size below which a change is none: fp32's rounding."""
TOLERANCE = 0.05
"""Drift that is let pass: mean distance to what the adapter does, over mean distance of that to the base."""


def verify(
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

    Returns:
        The changes of the logits, the agreement of tokens and texts, perplexities, and `drift` where there is a model.

    Raises:
        CheckError: the adapter or model changes nothing, or the model is too far from what its adapter does.
        UserError: something cannot be read, or does not belong together.
    """
    beside: Reading | None = None
    meta: dict[str, Any] = {}
    if adapter is not None:
        adapted = load_adapted(adapter, base, dtype=torch.float32, force=force)
        assert adapted.adapter is not None
        base, meta = adapted.base.name if base is None else base, dict(adapted.adapter.meta)
        probes = probes_of(records, adapted.base, meta)
        beside = reading_of(adapted.base, probes, new_tokens)
        del adapted
    if base is None:
        raise SettingsError("no base model named", where="base", hint="name it with --base")
    bare = load_base(base, dtype=torch.float32)
    probes = probes_of(records, bare, meta)
    before = reading_of(bare, probes, new_tokens)
    fingerprint = bare.fingerprint
    del bare
    merged = None if model is None else reading_of(load_base(model, dtype=torch.float32), probes, new_tokens)
    subject = beside if merged is None else merged
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
    if merged is not None:
        result["perplexity"]["model"] = merged.perplexity
    if merged is not None and beside is not None:
        result["against_adapter"] = distance(merged, beside)
        effect = distance(beside, before)["mean"]
        result["drift"] = result["against_adapter"]["mean"] / effect if effect else math.inf
    _judge(result, before, tolerance)
    return result


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
