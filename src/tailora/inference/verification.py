"""Verify an adapter against its base, and a merged or converted model against both.

An adapter without effect, or an update that is rounded away when it is merged, fails silently. Verification compares
logits on texts with those of the base, and with those of base and adapter.
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
from tailora.inference.probe_settings import LARGEST_DRIFT
from tailora.inference.probes import Reading, distance, probes_of, reading_of
from tailora.models.load import load_base
from tailora.models.provenance import training_metadata

NOTHING = 1e-6
"""Change of the logits, relative to their size, that counts as none: rounding in fp32."""


def verify(
    adapter: Path | Adapter | None,
    base: str | None,
    model: str | None,
    *,
    records: Sequence[Record] = (),
    tolerance: float = LARGEST_DRIFT,
    new_tokens: int = 32,
    force: bool = False,
) -> dict[str, Any]:
    """Compare a base, an adapter and a model made of both, with two of them in memory at a time.

    Args:
        adapter: folder, file or value; None compares the model with the base only.
        base: name or path; None takes the one that the adapter names.
        model: folder of the model; None compares the adapter with the base only.
        records: to compare on, with texts; by default bundled ones.
        tolerance: largest accepted drift.
        new_tokens: length of the greedy texts.
        force: accept an adapter of another base.

    Returns:
        Changes of the logits, agreement of tokens and texts, perplexities, and `drift` if there is a model.

    Raises:
        CheckError: the adapter or model has no effect, or the drift of the model exceeds the tolerance.
        UserError: something cannot be read, or does not belong together.
    """
    with_adapter: Reading | None = None
    meta: dict[str, Any] = {}
    if adapter is not None:
        adapted = load_adapted(adapter, base, dtype=torch.float32, force=force)
        assert adapted.adapter is not None
        base, meta = adapted.base.name if base is None else base, dict(adapted.adapter.meta)
        with_adapter = reading_of(adapted.base, probes_of(records, adapted.base, meta), new_tokens)
        del adapted
    if base is None:
        raise SettingsError("no base model named", where="base", hint="name it with --base")
    bare = load_base(base, dtype=torch.float32)
    probes = probes_of(records, bare, meta if adapter is not None else training_metadata(bare.folder))
    before, fingerprint = reading_of(bare, probes, new_tokens), bare.fingerprint
    del bare
    merged = None if model is None else reading_of(load_base(model, dtype=torch.float32), probes, new_tokens)
    subject = with_adapter if merged is None else merged
    if subject is None:
        raise SettingsError("nothing to verify", where="adapter", hint="name an adapter, a model, or both")
    readings = {"base": before, "adapter": with_adapter, "model": merged}
    result: dict[str, Any] = {
        "base": base,
        "base_fingerprint": fingerprint,
        "adapter": str(adapter) if isinstance(adapter, Path) else None if adapter is None else adapter.content_hash,
        "model": model,
        "probes": len(probes),
        "positions": len(before.logits),
        "against_base": distance(subject, before),
        "perplexity": {name: reading.perplexity for name, reading in readings.items() if reading is not None},
    }
    result |= _drift(merged, with_adapter, before)
    _judge(result, before, tolerance)
    return result


def _drift(merged: Reading | None, with_adapter: Reading | None, before: Reading) -> dict[str, Any]:
    """Return the distance of a model from base and adapter, absolute and relative to the adapter's effect.

    Empty unless there are both a model and an adapter.
    """
    if merged is None or with_adapter is None:
        return {}
    against = distance(merged, with_adapter)
    effect = distance(with_adapter, before)["mean"]
    return {"against_adapter": against, "drift": against["mean"] / effect if effect else math.inf}


def _judge(result: dict[str, Any], before: Reading, tolerance: float) -> None:
    what = "the adapter" if result["model"] is None else "the model"
    where = result["adapter"] if result["model"] is None else result["model"]
    change = result["against_base"]
    if not math.isfinite(change["largest"]):
        raise CheckError(
            f"{what} computes logits that are not finite", where=where, hint="create it again", result=result
        )
    if change["mean"] <= NOTHING * float(before.logits.abs().mean()):
        hint = "check that it was made from this base and that training changed it"
        raise CheckError(
            f"{what} changes nothing: its logits are those of the base", where=where, hint=hint, result=result
        )
    if not result.get("drift", 0.0) <= tolerance:  # also where it is not a number
        share = f"{result['drift']:.1%} of the adapter's effect (limit {tolerance:.1%})"
        hint = "merge into a base in fp32, or serve the adapter without merging it"
        raise CheckError(f"{what} deviates by {share}", where=where, hint=hint, result=result)
