"""Resolve a base model and its adapters, and check that they belong together."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, changes_nothing, require_base
from tailora.adapters.draft_table import DraftTable
from tailora.adapters.formats import draft_file
from tailora.adapters.insert import AnyAdapter, Insert
from tailora.core.errors import AdapterError, SettingsError
from tailora.data.known_values import KnownValues, joined, read_known_values
from tailora.data.prompts import PromptForm, PromptFormat
from tailora.data.readers.jsonl import parse_facts
from tailora.data.tokenizer import Tokenizer
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Record
from tailora.models import hub_adapters
from tailora.models.catalog import Resolved, resolve
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.provenance import training_metadata

log = logging.getLogger(__name__)
A = TypeVar("A", bound=AnyAdapter)


@dataclass(frozen=True, eq=False)
class Setup:
    """A base model and its adapters, before the network is loaded.

    Attributes:
        base: the base model's name and folder.
        tokenizer: the tokenizer of the base.
        fingerprint: fingerprint of the base's weights.
        adapters: the adapters by the names that requests use; inserts of other methods count as adapters.
        force: whether adapters trained on other weights are accepted.
        base_drafts: n-grams of the texts that the base was trained on, if its folder has them.
    """

    base: Resolved
    tokenizer: Tokenizer
    fingerprint: str
    adapters: Mapping[str, AnyAdapter]
    force: bool = False
    base_drafts: DraftTable | None = None

    def training_metadata(self, adapter: str | None) -> Mapping[str, Any]:
        """Return the metadata of an adapter's training; for None, of the adapter that was merged into the base."""
        return training_metadata(self.base.folder) if adapter is None else self.adapters[adapter].meta

    def prompts(self, adapter: str | None, *, form: PromptForm | None = None, style: str | None = None) -> PromptFormat:
        """Return the prompt format of an adapter, or of the base.

        The form is that of the adapter's training. The form of a base that was not trained by Tailora is arrow, because
        such a base would not continue the facts after an end-of-text token.

        Args:
            adapter: name of the adapter; None for the base.
            form: prompt form that overrides it.
            style: linearisation that overrides it.

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
    def known_values(self) -> KnownValues:
        """The values that the adapters were trained on, or the model that they were merged into."""
        names: list[str | None] = [*self.adapters] or [None]
        return joined(read_known_values(self.training_metadata(name)) for name in names)

    @property
    def lora(self) -> dict[str, Adapter]:
        """The adapters that are LoRA's; any other is part of the network."""
        return {name: adapter for name, adapter in self.adapters.items() if isinstance(adapter, Adapter)}

    @property
    def reading(self) -> TrainedReading | None:
        """How the data was read in the training of the only adapter, or of the one merged into the base."""
        if len(self.adapters) > 1:
            return None
        return TrainedReading.of_meta(self.training_metadata(next(iter(self.adapters), None)))

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text: those of the base, and those that its adapters were trained on."""
        taught = (self.prompts(name).end for name in (None, *self.adapters) if self.training_metadata(name))
        return self.tokenizer.end_ids.union(taught)


def resolve_models(base: str | None, adapters: Mapping[str, Path], *, force: bool = False) -> Setup:
    """Find a base model and read adapters for it, without loading a network or PyTorch.

    Args:
        base: name, path or hub id; None takes the one that the adapters name.
        adapters: folders, files, run directories or hub ids by name.
        force: accept adapters that were trained on other weights than the base has.

    Raises:
        SettingsError: no base is named, or several are.
        AdapterError: an adapter cannot be read, changes nothing, or belongs to another base.
        ModelError: the base cannot be loaded or read.
    """
    places = located(adapters)
    loaded = {name: formats.load_any(formats.adapter_place(path)) for name, path in places.items()}
    for name, adapter in loaded.items():
        if adapter.changes_nothing if isinstance(adapter, Insert) else changes_nothing(adapter):
            what = "the adapter changes nothing: all its updates are zero"
            raise AdapterError(what, where=adapters[name], hint="train it again")
    if base is None:
        named = sorted({adapter.base_name for adapter in loaded.values() if adapter.base_name})
        if not named:
            why = "the adapter does not name its base model" if loaded else "no base model named"
            raise SettingsError(why, where="base", hint="name it with --base")
        if len(named) > 1:
            raise SettingsError(
                f"the adapters name several base models ({', '.join(named)})",
                where="adapter",
                hint="use adapters of one base only",
            )
        base = named[0]
    resolved = resolve(base)
    fingerprint = fingerprint_folder(resolved.folder)
    for name, adapter in loaded.items():
        place = str(adapters[name])
        require_base(adapter, fingerprint=fingerprint, base_name=resolved.name, place=place, force=force)
        if places[name] != adapters[name] and not force:
            hub_adapters.require_base_name(adapter, base_name=resolved.name, place=place)
    tokenizer = Tokenizer.from_folder(resolved.folder)
    fitting = {name: with_fitting_drafts(adapter, tokenizer, adapters[name]) for name, adapter in loaded.items()}
    drafts = _fitting(draft_file.read(resolved.folder), tokenizer, resolved.folder)
    return Setup(resolved, tokenizer, fingerprint, fitting, force, drafts)


def with_fitting_drafts(adapter: A, tokenizer: Tokenizer, place: object) -> A:
    """Return an adapter without its n-grams if they are of another tokenizer's tokens, which is reported as a warning.

    Args:
        adapter: the adapter.
        tokenizer: that of the base.
        place: where the adapter is, for the warning.
    """
    return replace(adapter, drafts=_fitting(adapter.drafts, tokenizer, place))


def _fitting(drafts: DraftTable | None, tokenizer: Tokenizer, place: object) -> DraftTable | None:
    if drafts is None or drafts.vocabulary == tokenizer.vocabulary_fingerprint:
        return drafts
    hint = "make it again with `tailora draft`"
    log.warning("%s: its table of drafts is for another tokenizer and is not used; %s", place, hint)
    return None


def located(adapters: Mapping[str, Path]) -> dict[str, Path]:
    """Return the paths of adapters, those of the hub downloaded unless they are in its cache.

    Raises:
        UserError: see `models.hub_adapters.folder_of`.
    """
    texts = {name: path.as_posix() for name, path in adapters.items()}
    return {
        name: hub_adapters.folder_of(text) if hub_adapters.is_hub_adapter(text) else adapters[name]
        for name, text in texts.items()
    }


def trained_reading(base: str | None, adapters: Mapping[str, Path]) -> TrainedReading | None:
    """How the data was read in the training of the only adapter, or of the one merged into a base.

    None if it is not known. This is cheaper than a `Setup`. A metadata file that cannot be read is reported by
    `resolve_models`.
    """
    if len(adapters) > 1 or (not adapters and base is None):
        return None
    if not adapters and base is not None:
        return TrainedReading.of_meta(training_metadata(resolve(base).folder))
    meta = _metadata(next(iter(located(adapters).values())))
    return None if meta is None else TrainedReading.of_meta(meta)


def trained_values(base: str | None, adapters: Mapping[str, Path]) -> KnownValues:
    """Return the values that adapters were trained on, or the model that they were merged into.

    None is known of files that cannot be read; `resolve_models` reports them.
    """
    if not adapters:
        return {} if base is None else read_known_values(training_metadata(resolve(base).folder))
    return joined(read_known_values(_metadata(place) or {}) for place in located(adapters).values())


def _metadata(adapter: Path) -> dict[str, Any] | None:
    record = formats.adapter_place(adapter) / "tailora.json"
    try:
        meta = json.loads(record.read_text(encoding="utf-8"))["meta"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return meta if isinstance(meta, dict) else None


def prompt_ids(
    facts: Mapping[str, Any] | Sequence[Sequence[Any]], *, adapter: str | Path | None = None, base: str | None = None
) -> list[int]:
    """Return the token ids of a record's prompt as `generate` and the server build them, for servers that take ids.

    Args:
        facts: {attribute: value}, [[attribute, value], …] or [[subject, attribute, value], …].
        adapter: folder, file or run directory of the adapter.
        base: name, path or hub id; by default the one that the adapter names. The folder of a merged model describes
            the prompts of the merged adapter.

    Raises:
        DataError: the facts cannot be read.
        UserError: see `resolve_models`.
    """
    setup = resolve_models(base, {} if adapter is None else {"adapter": Path(adapter)})
    record = Record("1", parse_facts(facts, "facts"), ())
    return list(setup.prompts(None if adapter is None else "adapter").encode([record])[0])
