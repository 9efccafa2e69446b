"""Adapters of the Hugging Face hub, named `ORGANISATION/NAME` or `ORGANISATION/NAME@REVISION`. No torch.

Only the files that describe an adapter and its tensors in safetensors are downloaded, into the cache of the hub's
library. Nothing that could hold code is downloaded or read.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from tailora.adapters.base_names import hub_name, is_hub_id, split_revision
from tailora.adapters.formats import draft_file
from tailora.adapters.insert import AnyAdapter
from tailora.core.errors import AdapterError, OfflineError
from tailora.core.hub_connection import LARGEST_ADAPTER
from tailora.models.hub import CONNECT_TIMEOUT, downloading

_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_FILES = (_CONFIG, _WEIGHTS, "tailora.json", draft_file.FILE)


def is_hub_adapter(name: str) -> bool:
    """Return whether a name means an adapter of the hub: it has the form of a hub id, and is not an existing path."""
    return is_hub_id(split_revision(name)[0]) and not Path(name).exists()


def folder_of(name: str, *, largest: int = LARGEST_ADAPTER) -> Path:
    """Return the folder of an adapter in the cache of the hub's library, after downloading it if it is not there.

    Args:
        name: hub id, optionally with `@` and a commit, a tag or a branch.
        largest: bytes of the largest adapter that is downloaded.

    Raises:
        ModelError: the hub has no such adapter or revision, or asks for its terms to be accepted.
        AdapterError: it is not an adapter in safetensors, or is too large.
        OfflineError: the hub cannot be reached, or the download failed.
    """
    repository, revision = split_revision(name)
    if folder := _cached(repository, revision):
        return folder
    with downloading("adapter", name, repository, revision, _offline):
        commit = _check_files(name, repository, revision, largest)
        place = snapshot_download(
            repository, revision=revision, allow_patterns=list(_FILES), etag_timeout=CONNECT_TIMEOUT
        )
    if Path(place).name != commit:  # whose files have not been checked
        raise AdapterError("has changed during the download", where=name, hint="try again")
    return Path(place)


def require_base_name(adapter: AnyAdapter, *, base_name: str, place: str) -> None:
    """Check that an adapter without a fingerprint names the base that it is used with, if both are known by hub id.

    Raises:
        AdapterError: it names another base.
    """
    named, own = hub_name(adapter.base_name)[0], hub_name(base_name)[0]
    if adapter.base_fingerprint is not None or named is None or own is None:
        return
    if is_hub_id(named) and is_hub_id(own) and not Path(own).exists() and named.casefold() != own.casefold():
        what = f"it was trained on {named}, and the base is {own}"
        raise AdapterError(what, where=place, hint="use an adapter of this base")


def _cached(repository: str, revision: str | None) -> Path | None:
    try:
        place = snapshot_download(repository, revision=revision, allow_patterns=list(_FILES), local_files_only=True)
    except (OSError, ValueError):  # how the library reports that the cache does not have it
        return None
    return Path(place) if all((Path(place) / file).is_file() for file in (_CONFIG, _WEIGHTS)) else None


def _check_files(name: str, repository: str, revision: str | None, largest: int) -> str:
    """Return the commit of a revision, after checking which files it has, and their sizes."""
    info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=CONNECT_TIMEOUT)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or () if file.rfilename in _FILES}
    missing = [file for file in (_CONFIG, _WEIGHTS) if file not in sizes]
    if missing:
        what = f"has no {missing[0]}, so it is not an adapter in safetensors"
        raise AdapterError(what, where=name, hint="name an adapter that PEFT or `tailora train` wrote")
    size = sum(sizes.values())
    if size > largest:
        what = f"has {size:,} bytes (limit: {largest:,})"
        raise AdapterError(what, where=name, hint="download it yourself and name its folder, or raise the limit")
    return str(info.sha)


def _offline(name: str, why: str) -> OfflineError:
    what = f"there is no such path, and the adapter cannot be downloaded: {why}"
    return OfflineError(what, where=name, hint="name a folder, or try again with a network")
