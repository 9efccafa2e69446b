"""The prompts of records, in the form that each record's adapter was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tailora.core.errors import DataError
from tailora.data.prompts import PromptForm
from tailora.data.values import Record
from tailora.inference.running import Running
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
    """Token ids in the form that each record's adapter was trained on.

    Args:
        records: what to write about; each may name an adapter of the setup.
        setup: the base and its adapters.
        form: the prompt form to use instead.
        style: the linearisation to use instead.
        source: where the records come from, for warnings.

    Raises:
        DataError: a record names an adapter that is not there, or none where there are several.
        SettingsError: see `Setup.prompts`.
    """
    adapters = [_adapter_of(record, setup.adapters) for record in records]
    prompts: dict[int, Prompt] = {}
    for adapter in dict.fromkeys(adapters):
        numbers = [number for number, name in enumerate(adapters) if name == adapter]
        chosen = setup.prompts(adapter, form=form, style=style)
        own = [records[number] for number in numbers]
        _warn_of_unknown_attributes(chosen.unknown_attributes(own), adapter, source)
        encoded = chosen.encode(own)
        prompts |= {number: Prompt(tokens, adapter) for number, tokens in zip(numbers, encoded, strict=True)}
    return [prompts[number] for number in range(len(records))]


def check_prompts(records: Sequence[Record], prompts: Sequence[Prompt], running: Running) -> None:
    """Raise `DataError` where an engine cannot write after the prompt of a record."""
    context = running.engine.backend.context
    for record, prompt in zip(records, prompts, strict=True):
        if running.built_in and prompt.adapter is None:
            raise DataError(
                "asks for the base alone, which the adapter is part of here",
                where=f"record {record.id}",
                hint="run such records without --adapter",
            )
        if len(prompt.tokens) >= context:
            raise DataError(
                f"its prompt has {len(prompt.tokens)} tokens and the model takes {context} with the text",
                where=f"record {record.id}",
                hint="shorten it",
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


def _adapter_of(record: Record, adapters: Mapping[str, Any]) -> str | None:
    if record.adapter == "":
        return None
    where = f"record {record.id}"
    if record.adapter is not None:
        if record.adapter not in adapters:
            known = ", ".join(adapters) or "none"
            hint = f"give it with --adapter {record.adapter}=PATH (there are: {known})"
            raise DataError(f"names the adapter {record.adapter!r}", where=where, hint=hint)
        return record.adapter
    if len(adapters) > 1:
        what = f"names none of the {len(adapters)} adapters"
        raise DataError(what, where=where, hint='give JSON lines with an "adapter", null for the base alone')
    return next(iter(adapters), None)
