"""Adapters of the hub that requests may name, and the check that an adapter's tensors are in safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, require_base
from tailora.adapters.base_names import is_hub_id, split_revision
from tailora.adapters.formats import mlx, peft
from tailora.adapters.formats.peft_files import CONFIG_FILE
from tailora.core.errors import AdapterError
from tailora.models import hub_adapters

FILES = (CONFIG_FILE, peft.WEIGHTS_FILE)
ANY = "all"


@dataclass(frozen=True)
class HubAdapters:
    """Adapters of the hub that requests may name.

    Attributes:
        allowed: organisations and hub ids; `all` for any.
        largest: bytes of the largest adapter that is downloaded.
        loaded: largest number of them in memory; the least recently used leaves first.
    """

    allowed: Sequence[str]
    largest: int
    loaded: int

    def allows(self, name: str) -> bool:
        """Return whether a name is the hub id of an adapter that requests may name, with or without a revision."""
        repository = split_revision(name)[0]
        if not is_hub_id(repository):
            return False
        return any(allowed in (ANY, repository, repository.partition("/")[0]) for allowed in self.allowed)

    def read(self, name: str, *, fingerprint: str, base_name: str, force: bool) -> Adapter:
        """Return an adapter, downloaded unless it is in the cache of the hub's library.

        Args:
            name: hub id, optionally with a revision.
            fingerprint: of the base's weights.
            base_name: of the base.
            force: accept an adapter that was trained on other weights.

        Raises:
            UserError: see `models.hub_adapters.folder_of`; or the adapter cannot be read, or belongs to another base.
        """
        place = require_safetensors(hub_adapters.folder_of(name, largest=self.largest), shown=name)
        adapter = formats.load(place)
        require_base(adapter, fingerprint=fingerprint, base_name=base_name, place=name, force=force)
        if not force:
            hub_adapters.require_base_name(adapter, base_name=base_name, place=name)
        return adapter


def require_safetensors(path: Path, *, shown: str | None = None) -> Path:
    """Return the folder of an adapter whose tensors are in safetensors: a server opens no pickle.

    Args:
        path: the folder, or a run directory.
        shown: name of the folder in messages.

    Raises:
        AdapterError: the folder holds something else.
    """
    place = formats.adapter_place(path)
    missing = [file for file in FILES if not (place / file).is_file()]
    if missing:
        hint = "name a folder with an adapter in safetensors, as `tailora train` and PEFT write it"
        if (place / mlx.WEIGHTS_FILE).is_file():
            hint = "write it as a folder of PEFT with `tailora convert`"
        raise AdapterError(f"{missing[0]} is missing", where=shown or path, hint=hint)
    return place
