"""`tailora verify`: does an adapter change its base, and does a merged model still compute what its adapter does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from tailora.adapters import lineage
from tailora.adapters.adapter import Adapter
from tailora.core.errors import SettingsError
from tailora.inference.probes import ProbeSettings
from tailora.inference.verification import TOLERANCE, verify


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


def run(settings: VerifySettings) -> dict[str, Any]:
    """Compare, and say what came of it.

    Returns:
        The changes of the logits, the agreement of tokens and texts, perplexities, and `drift` where there is a model.

    Raises:
        CheckError: the adapter or model changes nothing, or the model is too far from what its adapter does.
        UserError: something cannot be read, or does not belong together.
    """
    adapter, base = _meant(settings)
    result = verify(
        adapter,
        base,
        settings.model,
        records=settings.records(),
        tolerance=settings.tolerance,
        new_tokens=settings.new_tokens,
        force=settings.force,
    )
    _tell(result)
    return result


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
