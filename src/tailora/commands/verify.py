"""`tailora verify`: whether an adapter has an effect, and whether a merged model still matches base + adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tailora.adapters import lineage
from tailora.adapters.adapter import Adapter
from tailora.core.console import message_console
from tailora.core.errors import SettingsError
from tailora.core.settings import Unset
from tailora.data.trained_reading import TrainedReading
from tailora.inference.probe_settings import LARGEST_DRIFT, ProbeSettings
from tailora.inference.setup import trained_reading
from tailora.models.settings import BASE


class VerifySettings(ProbeSettings):
    """Settings of `tailora verify`."""

    heading = "model"
    main = "adapter"
    headings: ClassVar = {"tolerance": "checks"}
    base: Annotated[
        str | None, Field(description=BASE), Unset("the one that the adapter or the model's folder names")
    ] = None
    adapter: Annotated[Path | None, Unset("the adapters that the model's folder names")] = None
    """Adapter: a folder, a file or a run directory."""
    model: Annotated[str | None, Unset("none, which checks the adapter alone")] = None
    """Merged, quantised or converted model to compare with base and adapter."""
    base_only: bool = False
    """Compare the model with its base only, without the adapter that was merged into it."""
    tolerance: float = Field(LARGEST_DRIFT, gt=0)
    """Largest accepted drift: the distance between the model and base + adapter, relative to the adapter's effect."""


def run(settings: VerifySettings) -> dict[str, Any]:
    """Compare and print the result.

    Returns:
        The changes of the logits, the agreement of tokens and texts, perplexities, and `drift` where there is a model.

    Raises:
        CheckError: the adapter or the model has no effect, or the model deviates too much from base + adapter.
        UserError: a model, an adapter or the records cannot be read, or do not belong together.
    """
    from tailora.inference.verification import verify  # loads PyTorch, which help does not need

    adapter, base = _subject(settings)
    result = verify(
        adapter,
        base,
        settings.model,
        records=settings.records(_reading(adapter, base)),
        tolerance=settings.tolerance,
        new_tokens=settings.new_tokens,
        force=settings.force,
    )
    _print(result)
    return result


def _reading(adapter: Path | Adapter | None, base: str | None) -> TrainedReading | None:
    """Return how the training of the adapter, or of what is merged into the base, read its data."""
    if isinstance(adapter, Adapter):
        return TrainedReading.of_meta(adapter.meta)
    return trained_reading(base, {} if adapter is None else {"adapter": adapter})


def _subject(settings: VerifySettings) -> tuple[Path | Adapter | None, str | None]:
    """Return the adapter and the base that are named in the settings, or else in the model's tailora.json.

    Raises:
        SettingsError: tailora.json cannot be read, or a merged adapter is missing, so that less would be checked than
            when it was merged.
    """
    adapter, base = settings.adapter, settings.base
    record = None if settings.model is None else Path(settings.model) / "tailora.json"
    if record is None or not record.is_file() or (adapter is not None and base is not None):
        return adapter, base
    try:
        description = json.loads(record.read_text(encoding="utf-8"))
        made_of = description.get("merged") or description["quantised"]
        base = base or str(made_of["base"])
        if adapter is not None or settings.base_only:
            return adapter, base
        return lineage.find(made_of["adapters"], made_of.get("svd"), record.parent), base
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            "does not describe a merged or quantised model", where=record, hint="give --adapter and --base"
        ) from error


def _print(result: dict[str, Any]) -> None:
    console = message_console()
    names = {"against_base": "compared with the base", "against_adapter": "compared with base + adapter"}
    for key, name in names.items():
        if key in result:
            change = result[key]
            console.print(
                f"{name}: logits differ by at most {change['largest']:.2g} and by {change['mean']:.2g} on average; "
                f"the most likely token is the same at {change['same_token']:.1%} of {result['positions']} positions; "
                f"{change['equal_texts']} of {change['texts']} greedy texts are equal",
                highlight=False,
                soft_wrap=True,
            )
    perplexity = ", ".join(f"{who} {value:.2f}" for who, value in result["perplexity"].items() if value is not None)
    shown = perplexity or "not measured, because the texts are longer than the context"
    console.print(f"perplexity: {shown}", highlight=False)
    if "drift" in result:
        console.print(f"drift: {result['drift']:.2%} of the adapter's effect", highlight=False)
