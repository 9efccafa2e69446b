"""Quantised models: a base, with or without an adapter, stored in fewer bits and compared with the original."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tailora import __version__
from tailora.adapters import formats, lineage
from tailora.adapters.adapter import Adapter
from tailora.adapters.formats import draft_file
from tailora.core.errors import CheckError
from tailora.core.files import atomic_folder, require_new, write_json
from tailora.data.examples import Example
from tailora.data.trained_reading import TrainedReading
from tailora.inference.attached import apply_adapter, load_adapted
from tailora.inference.decoding_speed import measure_speed
from tailora.inference.model_settings import PrecisionName
from tailora.inference.probe_settings import LARGEST_RISE, ProbeSettings
from tailora.inference.probes import Reading, distance, probes_of, reading_of
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt
from tailora.models.load import Base, fingerprint_module, load_base
from tailora.models.provenance import training_metadata
from tailora.models.save import save_quantized
from tailora.models.settings import QuantizedType
from tailora.models.weights import weight_files

ROUNDED_AWAY = 0.5
"""Drift relative to a merged adapter's effect above which the effect counts as lost."""
_RUNS_IN: dict[QuantizedType, PrecisionName] = {"int8": "int8", "bf16": "bf16", "fp16": "fp32"}


@dataclass(frozen=True)
class Quantization:
    """The model to quantise, and the result that is accepted.

    Attributes:
        base: base model; None for the one that the adapter names.
        adapter: adapter to store with the base, in its subfolder `adapter`, or to merge; None for the base alone.
        to: type of the stored weights.
        output: folder to write; it must not exist, or be empty.
        merged: merge the adapter in fp32 before rounding.
        tolerance: largest accepted rise of the perplexity, as a fraction.
        force: accept an adapter that was trained on other weights.
    """

    base: str | None
    adapter: Path | None
    to: QuantizedType
    output: Path
    merged: bool = False
    tolerance: float = LARGEST_RISE
    force: bool = False


def quantize(chosen: Quantization, probing: ProbeSettings) -> dict[str, Any]:
    """Round the weights, write them, and compare the result with the original. verify.json has the measurements.

    Args:
        chosen: the model, the type of its weights, and the output.
        probing: the texts on which the models are compared.

    Returns:
        Bytes, tokens per second and perplexity before and after, and the differences of logits and texts.

    Raises:
        SettingsError: the output exists and is not an empty folder, or no base model is named.
        CheckError: the perplexity rises too much, or rounding removes a merged adapter's effect; nothing is written.
        UserError: the model, the adapter or the records cannot be read, or do not belong together.
    """
    output = chosen.output
    require_new(output)
    adapted = load_adapted(chosen.adapter, chosen.base, dtype=torch.float32, merged=chosen.merged, force=chosen.force)
    base, adapter = adapted.base, adapted.adapter
    named = chosen.base or base.name
    meta = dict(training_metadata(base.folder) if adapter is None else adapter.meta)
    records = probing.records(TrainedReading.of_meta(meta))
    probes = probes_of(records, base, meta)
    before = reading_of(base, probes, probing.new_tokens)
    beside = None if chosen.merged else adapter
    bare: Reading | None = None
    if chosen.merged:
        bare = reading_of(load_base(named, dtype=torch.float32), probes, probing.new_tokens)
    else:
        base = load_base(named, dtype=torch.float32)  # without the adapter on it
    description = _description(chosen, base, adapter)
    with atomic_folder(output) as folder:
        save_quantized(base, folder, chosen.to)
        write_json(folder / "tailora.json", description)
        drafts = adapter.drafts if chosen.merged and adapter is not None else draft_file.read(base.folder)
        if drafts is not None:
            draft_file.write(drafts, folder)
        if beside is not None:
            formats.save(beside, folder / "adapter")
        quantized = load_base(str(folder), dtype=torch.float32)
        if beside is not None:
            apply_adapter(quantized, beside, merged=False)
        after = reading_of(quantized, probes, probing.new_tokens)
        del quantized
        result: dict[str, Any] = {
            "base": base.name,
            "adapter": None if chosen.adapter is None else str(chosen.adapter),
            "merged": chosen.merged,
            "to": chosen.to,
            "bytes": {"before": _weight_bytes(base.folder), "after": _weight_bytes(folder)},
            "perplexity": {"before": before.perplexity, "after": after.perplexity},
            "against_before": distance(after, before),
        }
        if bare is not None:
            effect = distance(before, bare)["mean"]
            result["drift"] = result["against_before"]["mean"] / effect if effect else math.inf
        _check_losses(result, chosen)
        merging = adapter if chosen.merged else None
        result["tokens_per_second"] = {
            "before": _speed(named, beside, merging, probes, "fp32", probing.new_tokens, chosen.force),
            "after": _speed(str(folder), beside, None, probes, _RUNS_IN[chosen.to], probing.new_tokens, True),
        }
        write_json(folder / "verify.json", result)
    return {**result, "output": str(output)}


def _description(chosen: Quantization, base: Base, adapter: Adapter | None) -> dict[str, Any]:
    """Return the content of tailora.json: the origin of the model, and the metadata of its training."""
    quantized: dict[str, Any] = {
        "to": chosen.to,
        "base": base.name,
        "adapters": [],
        "fingerprint": base.fingerprint,
    }
    if not chosen.merged or chosen.adapter is None or adapter is None:
        return {"tailora": __version__, "quantised": quantized, "meta": dict(training_metadata(base.folder))}
    sources = [lineage.MergedAdapter(chosen.adapter, adapter)]
    quantized |= {
        "adapters": lineage.entries(sources, chosen.output),
        "fingerprint": fingerprint_module(base.model),
    }
    return {"tailora": __version__, "quantised": quantized, "meta": dict(adapter.meta)}


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in weight_files(folder))


def _check_losses(result: Mapping[str, Any], chosen: Quantization) -> None:
    what, where = f"the model in {chosen.to}", chosen.output
    measured = dict(result)
    if not math.isfinite(result["against_before"]["largest"]):
        raise CheckError(
            f"{what} computes logits that are not finite", where=where, hint="use bf16 or int8", result=measured
        )
    before, after = result["perplexity"]["before"], result["perplexity"]["after"]
    if before is not None and after is not None and after > before * (1 + chosen.tolerance):
        rise = f"the perplexity of {what} is {after / before - 1:.1%} higher (limit {chosen.tolerance:.1%})"
        raise CheckError(rise, where=where, hint="use more bits, or raise --tolerance", result=measured)
    if not result.get("drift", 0.0) <= ROUNDED_AWAY:  # also where it is not a number
        lost = f"{what} loses the adapter: it is off by {result['drift']:.0%} of its effect (limit {ROUNDED_AWAY:.0%})"
        hint = "leave out --merged, which stores the adapter separately"
        raise CheckError(lost, where=where, hint=hint, result=measured)


def _speed(
    base: str,
    beside: Adapter | None,
    merging: Adapter | None,
    probes: Sequence[Example],
    precision: PrecisionName,
    new_tokens: int,
    force: bool,
) -> dict[str, Any]:
    """Return the median decoding speed after the probes' prompts, with backend and precision.

    The speed is None if no prompt is short enough for the context.
    """
    setup = resolve_models(base, {}, force=force)
    adapter = beside or merging
    if adapter is not None:
        setup = replace(setup, adapters={"adapter": adapter})
    running = start_engine(setup, merged=merging is not None, precision=precision, device="cpu")
    name, room = "adapter" if beside is not None else None, running.engine.backend.context - new_tokens
    prompts = [Prompt(probe.prompt, name) for probe in probes if len(probe.prompt) <= room]
    if not prompts:
        return {"value": None, "backend": running.backend, "precision": running.precision}
    speed = measure_speed(running, prompts, new_tokens).as_json()
    return {
        "value": speed["tokens_per_second"],
        "lowest": speed["lowest"],
        "highest": speed["highest"],
        "laps": speed["laps"],
        "backend": running.backend,
        "precision": running.precision,
    }
