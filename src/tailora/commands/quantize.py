"""`tailora quantize`: store a base model, with or without an adapter, in fewer bits, and measure the difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator
from rich.table import Table

from tailora import __version__
from tailora.adapters import formats, lineage
from tailora.adapters.adapter import Adapter
from tailora.core.console import message_console
from tailora.core.errors import CheckError, SettingsError
from tailora.core.files import atomic_folder, require_new, write_json
from tailora.core.settings import Unset
from tailora.data.examples import Example
from tailora.data.trained_reading import TrainedReading
from tailora.inference.attached import apply_adapter, load_adapted
from tailora.inference.decoding_speed import measure_speed
from tailora.inference.model_settings import PrecisionName
from tailora.inference.probes import ProbeSettings, Reading, distance, probes_of, reading_of
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt
from tailora.models.load import Base, fingerprint_module, load_base
from tailora.models.provenance import training_metadata
from tailora.models.save import QuantizedType, save_quantized
from tailora.models.weights import weight_files

TOLERANCE = 0.05
"""Largest accepted rise of the perplexity, as a fraction."""
ROUNDED_AWAY = 0.5
"""Drift relative to a merged adapter's effect above which the effect counts as lost."""
_RUNS_IN: dict[QuantizedType, PrecisionName] = {"int8": "int8", "bf16": "bf16", "fp16": "fp32"}


class QuantizeSettings(ProbeSettings):
    """Settings of `tailora quantize`."""

    heading = "model"
    headings: ClassVar = {"tolerance": "checks", "to": "output", "output": "output"}
    adapter: Annotated[Path | None, Unset("none")] = None
    """Adapter to store with the base, in its subfolder `adapter`, or to merge: a folder, a file or a run directory."""
    merged: bool = False
    """Merge the adapter in fp32 before rounding."""
    to: QuantizedType
    """Type of the stored weights. int8 has one scale per output channel."""
    tolerance: float = Field(TOLERANCE, gt=0)
    """Largest accepted rise of the perplexity, as a fraction."""
    output: Path
    """Folder to write. It must not exist, or be empty."""

    @model_validator(mode="after")
    def _combination(self) -> QuantizeSettings:
        if self.merged and self.adapter is None:
            raise SettingsError("no adapter to merge", where="merged", hint="name one with --adapter")
        return self


def run(settings: QuantizeSettings) -> dict[str, Any]:
    """Round the weights, write them, and compare the result with the original. verify.json has the measurements.

    Returns:
        Bytes, tokens per second and perplexity before and after, and the differences of logits and texts.

    Raises:
        SettingsError: the output folder exists and is not empty, or no base model is named.
        CheckError: the perplexity rises too much, or rounding removes a merged adapter's effect; nothing is written.
        UserError: the model, the adapter or the records cannot be read, or do not belong together.
    """
    output = settings.output
    require_new(output)
    adapted = load_adapted(
        settings.adapter, settings.base, dtype=torch.float32, merged=settings.merged, force=settings.force
    )
    base, adapter = adapted.base, adapted.adapter
    named = settings.base or base.name
    meta = dict(training_metadata(base.folder) if adapter is None else adapter.meta)
    records = settings.records(TrainedReading.of_meta(meta))
    probes = probes_of(records, base, meta)
    before = reading_of(base, probes, settings.new_tokens)
    beside = None if settings.merged else adapter
    bare: Reading | None = None
    if settings.merged:
        bare = reading_of(load_base(named, dtype=torch.float32), probes, settings.new_tokens)
    else:
        base = load_base(named, dtype=torch.float32)  # without the adapter on it
    description = _description(settings, base, adapter)
    with atomic_folder(output) as folder:
        save_quantized(base, folder, settings.to)
        write_json(folder / "tailora.json", description)
        if beside is not None:
            formats.save(beside, folder / "adapter")
        quantized = load_base(str(folder), dtype=torch.float32)
        if beside is not None:
            apply_adapter(quantized, beside, merged=False)
        after = reading_of(quantized, probes, settings.new_tokens)
        del quantized
        result: dict[str, Any] = {
            "base": base.name,
            "adapter": None if settings.adapter is None else str(settings.adapter),
            "merged": settings.merged,
            "to": settings.to,
            "bytes": {"before": _weight_bytes(base.folder), "after": _weight_bytes(folder)},
            "perplexity": {"before": before.perplexity, "after": after.perplexity},
            "against_before": distance(after, before),
        }
        if bare is not None:
            effect = distance(before, bare)["mean"]
            result["drift"] = result["against_before"]["mean"] / effect if effect else math.inf
        _check_losses(result, settings)
        merging = adapter if settings.merged else None
        result["tokens_per_second"] = {
            "before": _speed(named, beside, merging, probes, "fp32", settings.new_tokens, settings.force),
            "after": _speed(str(folder), beside, None, probes, _RUNS_IN[settings.to], settings.new_tokens, True),
        }
        write_json(folder / "verify.json", result)
    _print(result, output)
    return {**result, "output": str(output)}


def _description(settings: QuantizeSettings, base: Base, adapter: Adapter | None) -> dict[str, Any]:
    """Return the content of tailora.json: the origin of the model, and the metadata of its training."""
    quantized: dict[str, Any] = {
        "to": settings.to,
        "base": base.name,
        "adapters": [],
        "fingerprint": base.fingerprint,
    }
    if not settings.merged or settings.adapter is None or adapter is None:
        return {"tailora": __version__, "quantised": quantized, "meta": dict(training_metadata(base.folder))}
    sources = [lineage.MergedAdapter(settings.adapter, adapter)]
    quantized |= {
        "adapters": lineage.entries(sources, settings.output),
        "fingerprint": fingerprint_module(base.model),
    }
    return {"tailora": __version__, "quantised": quantized, "meta": dict(adapter.meta)}


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in weight_files(folder))


def _check_losses(result: Mapping[str, Any], settings: QuantizeSettings) -> None:
    what, where = f"the model in {settings.to}", settings.output
    measured = dict(result)
    if not math.isfinite(result["against_before"]["largest"]):
        raise CheckError(
            f"{what} computes logits that are not finite", where=where, hint="use bf16 or int8", result=measured
        )
    before, after = result["perplexity"]["before"], result["perplexity"]["after"]
    if before is not None and after is not None and after > before * (1 + settings.tolerance):
        rise = f"the perplexity of {what} is {after / before - 1:.1%} higher (limit {settings.tolerance:.1%})"
        raise CheckError(rise, where=where, hint="use more bits, or raise --tolerance", result=measured)
    if result.get("drift", 0.0) > ROUNDED_AWAY:
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


def _print(result: Mapping[str, Any], output: Path) -> None:
    console = message_console()
    table = Table()
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("weights, MB", *(f"{result['bytes'][when] / 2**20:,.1f}" for when in ("before", "after")))
    perplexity = [result["perplexity"][when] for when in ("before", "after")]
    table.add_row("perplexity", *("–" if value is None else f"{value:.3f}" for value in perplexity))
    speed = [result["tokens_per_second"][when] for when in ("before", "after")]
    rates = ["–" if run["value"] is None else f"{run['value']:,.0f}" for run in speed]
    table.add_row("tokens/s", *rates)
    table.add_row("computed in", *(f"{run['precision']}, {run['backend']}" for run in speed))
    console.print(table)
    change = result["against_before"]
    console.print(
        f"logits differ by at most {change['largest']:.2g} and by {change['mean']:.2g} on average; "
        f"the most likely token is the same at {change['same_token']:.1%} of positions; "
        f"{change['equal_texts']} of {change['texts']} greedy texts are equal",
        highlight=False,
        soft_wrap=True,
    )
    if "drift" in result:
        console.print(f"drift: {result['drift']:.1%} of the adapter's effect", highlight=False)
    console.print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)
