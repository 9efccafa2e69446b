"""The base model and the adapters of a run: found, read, and checked against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, changes_nothing, require_base
from tailora.core.errors import AdapterError, SettingsError
from tailora.data.prompts import PromptForm, PromptFormat
from tailora.data.readers.jsonl import parse_facts
from tailora.data.tokenizer import Tokenizer
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record
from tailora.models.catalog import Resolved, resolve
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.provenance import training_metadata

Facts = Mapping[str, Any] | Sequence[Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Setup:
    """A base model and its adapters, before the network is loaded.

    Attributes:
        base: the folder of the base model.
        tokenizer: its tokenizer.
        fingerprint: of its weights.
        adapters: by the names that requests use.
        force: whether adapters trained on other weights are accepted.
    """

    base: Resolved
    tokenizer: Tokenizer
    fingerprint: str
    adapters: Mapping[str, Adapter]
    force: bool = False

    def training_metadata(self, adapter: str | None) -> Mapping[str, Any]:
        """How an adapter was trained; for None, how the adapter that was merged into the base was trained."""
        return training_metadata(self.base.folder) if adapter is None else self.adapters[adapter].meta

    def prompts(self, adapter: str | None, *, form: PromptForm | None = None, style: str | None = None) -> PromptFormat:
        """How records become prompts of an adapter, or of the base.

        The form is that of the adapter's training. A base that was not trained by Tailora gets the facts and an arrow:
        after an end-of-text token it would not continue the facts.

        Args:
            adapter: its name; None for the base.
            form: a prompt form to use instead.
            style: a linearisation to use instead.

        Raises:
            SettingsError: the base has no chat template, or its tokenizer lacks a token of the adapter's prompts.
        """
        return self.prompts_of(self.training_metadata(adapter), adapted=adapter is not None, form=form, style=style)

    def prompts_of(
        self,
        metadata: Mapping[str, Any],
        *,
        adapted: bool,
        form: PromptForm | None = None,
        style: str | None = None,
    ) -> PromptFormat:
        """Like `prompts`, for the metadata of an adapter's training."""
        usual: PromptForm = "paper" if adapted else "arrow"
        return PromptFormat.of_meta(metadata, self.tokenizer, self.base.folder, usual=usual, form=form, style=style)

    @property
    def reading(self) -> TrainedReading | None:
        """How the training of the only adapter, or of what is merged into the base, read its data."""
        if len(self.adapters) > 1:
            return None
        return TrainedReading.of_meta(self.training_metadata(next(iter(self.adapters), None)))

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text: those of the base, and those that its adapters were taught."""
        taught = (self.prompts(name).end for name in (None, *self.adapters) if self.training_metadata(name))
        return self.tokenizer.end_ids.union(taught)


def resolve_models(base: str | None, adapters: Mapping[str, Path], *, force: bool = False) -> Setup:
    """Find a base model and read adapters for it. Loads no network, and no torch.

    Args:
        base: name, path or hub id; None takes the one that the adapters name.
        adapters: folders, files or run directories by name.
        force: accept adapters that were trained on other weights than the base has.

    Raises:
        SettingsError: no base is named, or several are.
        AdapterError: an adapter cannot be read, changes nothing, or belongs to another base.
        ModelError: the base cannot be found or read.
    """
    found = {name: formats.load(formats.adapter_place(path)) for name, path in adapters.items()}
    for name, adapter in found.items():
        if changes_nothing(adapter):
            what = "the adapter changes nothing: all its updates are zero"
            raise AdapterError(what, where=adapters[name], hint="train it again")
    if base is None:
        named = sorted({adapter.base_name for adapter in found.values() if adapter.base_name})
        if not named:
            why = "the adapter does not name its base model" if found else "no base model named"
            raise SettingsError(why, where="base", hint="name it with --base")
        if len(named) > 1:
            raise SettingsError(
                f"the adapters name several base models ({', '.join(named)})",
                where="adapter",
                hint="give the adapters of one base",
            )
        base = named[0]
    resolved = resolve(base)
    fingerprint = fingerprint_folder(resolved.folder)
    for name, adapter in found.items():
        require_base(adapter, fingerprint=fingerprint, base_name=resolved.name, place=str(adapters[name]), force=force)
    return Setup(resolved, Tokenizer.from_folder(resolved.folder), fingerprint, found, force)


def trained_reading(base: str | None, adapters: Mapping[str, Path]) -> TrainedReading | None:
    """How the training of the only adapter, or of what is merged into a base, read its data; cheaper than a setup.

    None where it is not known. A metadata file that cannot be read is left to `resolve_models` to report.
    """
    if len(adapters) > 1 or (not adapters and base is None):
        return None
    if not adapters and base is not None:
        return TrainedReading.of_meta(training_metadata(resolve(base).folder))
    account = formats.adapter_place(next(iter(adapters.values()))) / "tailora.json"
    try:
        meta = json.loads(account.read_text(encoding="utf-8"))["meta"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return TrainedReading.of_meta(meta) if isinstance(meta, dict) else None


def prompt_ids(facts: Facts, *, adapter: str | Path | None = None, base: str | None = None) -> list[int]:
    """The token ids of a record's prompt as `generate` and the server build them, for servers that take ids.

    Args:
        facts: {attribute: value}, [[attribute, value], …] or [[subject, attribute, value], …].
        adapter: its folder or file, or a run directory.
        base: name, path or hub id; by default the one that the adapter names. A merged model's folder describes the
            prompts of what was merged into it.

    Raises:
        DataError: the facts cannot be read.
        UserError: see `resolve_models`.
    """
    setup = resolve_models(base, {} if adapter is None else {"adapter": Path(adapter)})
    record = Record("1", parse_facts(facts, "facts"), ())
    return list(setup.prompts(None if adapter is None else "adapter").encode([record])[0])
