"""Prompts of records, in the format in which each record's adapter was trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tailora.core.errors import DataError, SettingsError
from tailora.data.mixtures import Mixture
from tailora.data.prompts import PromptForm
from tailora.data.values import Record
from tailora.inference.running import EngineTraits
from tailora.inference.setup import Setup
from tailora.inference.texts import Prompt

log = logging.getLogger(__name__)


def prompts_of_records(
    records: Sequence[Record],
    setup: Setup,
    *,
    form: PromptForm | None = None,
    style: str | None = None,
    source: str | None = None,
) -> list[Prompt]:
    """Build the token ids of each record's prompt, in the format in which its adapter was trained.

    Args:
        records: each may name an adapter of the setup.
        setup: the base and its adapters.
        form: the prompt form to use instead.
        style: the linearisation to use instead.
        source: where the records come from, for warnings.

    Raises:
        DataError: a record names an unknown adapter, or none although there are several.
        SettingsError: adapters that write one text were trained on different prompts; see also `Setup.prompts`.
    """
    adapters = [_adapter_of(record, setup.adapters) for record in records]
    prompts: dict[int, Prompt] = {}
    for adapter in dict.fromkeys(adapters):
        numbers = [number for number, name in enumerate(adapters) if name == adapter]
        mixture = adapter if isinstance(adapter, tuple) else ()
        first = mixture[0][0] if isinstance(adapter, tuple) else adapter
        chosen = setup.prompts(first, form=form, style=style)
        own = [records[number] for number in numbers]
        _warn_of_unknown_attributes(chosen.unknown_attributes(own), first, source)
        encoded = chosen.encode(own)
        for other, _ in mixture[1:]:
            if setup.prompts(other, form=form, style=style).encode(own) != encoded:
                what = f"the adapters {first} and {other} were trained on different prompts"
                raise SettingsError(what, where=own[0].place, hint="mix adapters with the same prompt form")
        prompts |= {number: Prompt(tokens, first, mixture) for number, tokens in zip(numbers, encoded, strict=True)}
    return [prompts[number] for number in range(len(records))]


def check_prompts(records: Sequence[Record], prompts: Sequence[Prompt], engine: EngineTraits) -> None:
    """Raise `DataError` if an engine cannot continue the prompt of a record."""
    context = engine.context
    for record, prompt in zip(records, prompts, strict=True):
        if engine.built_in and prompt.adapter is None:
            raise DataError(
                "needs the base without the adapter, which is part of this network",
                where=record.place,
                hint="run such records without --adapter",
            )
        if engine.built_in and any(weight != 1 for _, weight in prompt.adapters):
            what = "the adapter is part of the network, so its effect cannot be weighted"
            raise DataError(what, where=record.place, hint="name it without a weight")
        if len(prompt.adapters) > engine.together:
            what = f"names {len(prompt.adapters)} adapters (limit of the engine for one text: {engine.together})"
            raise DataError(what, where=record.place, hint="merge some of them beforehand with `tailora merge`")
        if len(prompt.tokens) >= context:
            raise DataError(
                f"the prompt has {len(prompt.tokens)} tokens (limit for prompt and text together: {context})",
                where=record.place,
                hint="shorten the record",
            )


def _warn_of_unknown_attributes(names: Sequence[str], adapter: str | None, source: str | None) -> None:
    if names:
        log.warning(
            "%s: %s was not trained on %s; leave such columns out with --columns ignore=NAME+NAME, or use "
            "the --columns of the training run",
            source or "the record",
            adapter or "the model",
            ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else ""),
        )


def _adapter_of(record: Record, adapters: Mapping[str, Any]) -> str | Mixture | None:
    """Return the name of a record's adapter, or several with weights; None for the base alone."""
    if record.adapter == "":
        return None
    where = record.place
    if record.adapter is not None:
        names = [name for name, _ in record.adapter] if isinstance(record.adapter, tuple) else [record.adapter]
        for name in names:
            if name not in adapters:
                known = ", ".join(adapters) or "none"
                hint = f"add --adapter {name}=PATH (known: {known})"
                raise DataError(f"the adapter {name!r} is not loaded", where=where, hint=hint)
        return record.adapter
    if len(adapters) > 1:
        what = f"does not name one of the {len(adapters)} adapters"
        raise DataError(what, where=where, hint='add "adapter" to each row of JSON lines; null is the base alone')
    return next(iter(adapters), None)
