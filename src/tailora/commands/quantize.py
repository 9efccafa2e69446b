"""`tailora quantize`: a base, or one with an adapter merged in, in fewer bits, and held against what it was made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from tailora import __version__
from tailora.adapters import formats, lineage
from tailora.adapters.adapter import Adapter
from tailora.core.errors import CheckError, SettingsError
from tailora.core.files import atomic_folder, write_json
from tailora.data.examples import Example
from tailora.inference.attached import apply_adapter, load_adapted
from tailora.inference.decoding_speed import measure_speed
from tailora.inference.model_settings import PrecisionName
from tailora.inference.probes import ProbeSettings, Reading, distance, probes_of, reading_of
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt
from tailora.models.load import fingerprint_module, load_base
from tailora.models.provenance import training_metadata
from tailora.models.save import QuantizedType, save_quantized
from tailora.models.weights import weight_files

TOLERANCE = 0.05
"""Rise of perplexity that is let pass."""
ROUNDED_AWAY = 0.5
"""Drift, over what a merged adapter does, from which its effect counts as lost."""
_RUNS_IN: dict[QuantizedType, PrecisionName] = {"int8": "int8", "bf16": "bf16", "fp16": "fp32"}


class QuantizeSettings(ProbeSettings):
    """Settings of `tailora quantize`."""

    base: str | None = None
    """Base model; by default the one that the adapter names."""
    adapter: Path | None = None
    """An adapter (folder, file or run directory) to keep beside the base, as `adapter/` in its folder, or to merge."""
    merged: bool = False
    """Merge the adapter in fp32 first, and round the sum."""
    to: QuantizedType
    """int8: a step for each output; bf16 or fp16: every number."""
    output: Path
    """The folder to write; it must not exist yet, or be empty."""
    tolerance: float = Field(TOLERANCE, gt=0)
    """Rise of perplexity that is let pass."""

    @model_validator(mode="after")
    def _combination(self) -> QuantizeSettings:
        if self.merged and self.adapter is None:
            raise SettingsError("there is no adapter to merge", where="merged", hint="name one with --adapter")
        return self


def run(settings: QuantizeSettings) -> dict[str, Any]:
    """Round, write, and hold the result against what it was made of; the receipt is verify.json in the folder.

    Returns:
        Bytes of the weights, tokens a second and perplexity before and after, and how far logits and texts are apart.

    Raises:
        SettingsError: the output folder exists and is not empty, or nothing names the base.
        CheckError: perplexity rises too much, or a merged adapter's effect is rounded away; nothing is written.
        UserError: model, adapter or records cannot be read or do not belong together.
    """
    output = settings.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SettingsError("exists already", where=output, hint="name a new folder with --output")
    adapted = load_adapted(
        settings.adapter, settings.base, dtype=torch.float32, merged=settings.merged, force=settings.force
    )
    base, adapter = adapted.base, adapted.adapter
    named = settings.base or base.name
    meta = {} if adapter is None else dict(adapter.meta)
    records = settings.records()
    probes = probes_of(records, base, meta)
    before = reading_of(base, probes, settings.new_tokens)
    beside = None if settings.merged else adapter
    bare: Reading | None = None
    if settings.merged:
        bare = reading_of(load_base(named, dtype=torch.float32), probes, settings.new_tokens)
    else:
        base = load_base(named, dtype=torch.float32)  # without the adapter on it
    fingerprint = fingerprint_module(base.model) if settings.merged else base.fingerprint
    source = sum(path.stat().st_size for path in weight_files(base.folder))
    sources = []
    if settings.merged and settings.adapter is not None and adapter is not None:
        sources = [lineage.MergedAdapter(settings.adapter, adapter)]
    with atomic_folder(output) as folder:
        save_quantized(base, folder, settings.to)
        account = {
            "tailora": __version__,
            "quantised": {
                "to": settings.to,
                "base": base.name,
                "adapters": lineage.entries(sources, output),
                "fingerprint": fingerprint,
            },
            "meta": meta if settings.merged else dict(training_metadata(base.folder)),
        }
        write_json(folder / "tailora.json", account)
        if beside is not None:
            formats.save(beside, folder / "adapter")
        made = load_base(str(folder), dtype=torch.float32)
        if beside is not None:
            apply_adapter(made, beside, merged=False)
        after = reading_of(made, probes, settings.new_tokens)
        del made
        result: dict[str, Any] = {
            "base": base.name,
            "adapter": None if settings.adapter is None else str(settings.adapter),
            "merged": settings.merged,
            "to": settings.to,
            "bytes": {"before": source, "after": sum(path.stat().st_size for path in weight_files(folder))},
            "perplexity": {"before": before.perplexity, "after": after.perplexity},
            "against_before": distance(after, before),
        }
        if bare is not None:
            effect = distance(before, bare)["mean"]
            result["drift"] = result["against_before"]["mean"] / effect if effect else math.inf
        _judge(result, settings)
        merging = adapter if settings.merged else None
        result["tokens_per_second"] = {
            "before": _speed(named, beside, merging, probes, "fp32", settings.new_tokens, settings.force),
            "after": _speed(str(folder), beside, None, probes, _RUNS_IN[settings.to], settings.new_tokens, True),
        }
        write_json(folder / "verify.json", result)
    _tell(result, output)
    return {**result, "output": str(output)}


def _judge(result: Mapping[str, Any], settings: QuantizeSettings) -> None:
    what, where = f"the model in {settings.to}", settings.output
    told = dict(result)
    if not math.isfinite(result["against_before"]["largest"]):
        raise CheckError(f"{what} gives logits that are no numbers", where=where, hint="use bf16 or int8", result=told)
    before, after = result["perplexity"]["before"], result["perplexity"]["after"]
    if before is not None and after is not None and after > before * (1 + settings.tolerance):
        share = f"{after / before - 1:.1%} more perplexity, where {settings.tolerance:.1%} is let pass"
        raise CheckError(f"{what} has {share}", where=where, hint="use more bits, or raise --tolerance", result=told)
    if result.get("drift", 0.0) > ROUNDED_AWAY:
        lost = f"{what} rounds away what the adapter does: it is off by {result['drift']:.0%} of that"
        raise CheckError(lost, where=where, hint="leave --merged out, which keeps the adapter beside", result=told)


def _speed(
    base: str,
    beside: Adapter | None,
    merging: Adapter | None,
    probes: Sequence[Example],
    precision: PrecisionName,
    new_tokens: int,
    force: bool,
) -> dict[str, Any]:
    """The median speed of writing after the probes' prompts, and what ran it; None if no prompt leaves room."""
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


def _tell(result: Mapping[str, Any], output: Path) -> None:
    console = Console(stderr=True)
    table = Table()
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("weights, MB", *(f"{result['bytes'][when] / 2**20:,.1f}" for when in ("before", "after")))
    perplexity = [result["perplexity"][when] for when in ("before", "after")]
    table.add_row("perplexity", *("–" if value is None else f"{value:.3f}" for value in perplexity))
    speed = [result["tokens_per_second"][when] for when in ("before", "after")]
    told = ["–" if each["value"] is None else f"{each['value']:,.0f}" for each in speed]
    table.add_row("tokens/s", *told)
    table.add_row("run in", *(f"{each['precision']}, {each['backend']}" for each in speed))
    console.print(table)
    found = result["against_before"]
    console.print(
        f"logits differ by {found['largest']:.2g} at most, {found['mean']:.2g} on average; the likeliest token is "
        f"the same at {found['same_token']:.1%} of positions, "
        f"{found['equal_texts']} of {found['texts']} greedy texts are equal",
        highlight=False,
        soft_wrap=True,
    )
    if "drift" in result:
        console.print(f"drift: {result['drift']:.1%} of what the adapter does", highlight=False)
    console.print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)
