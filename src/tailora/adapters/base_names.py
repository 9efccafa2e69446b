"""How a base model is named (`NAME`, `ORGANISATION/NAME`, `NAME@REVISION`, a path), and what the hub calls it."""

from __future__ import annotations

import re

HUB_IDS: dict[str, str | None] = {
    "tiny": None,  # bundled
    "distilgpt2": "distilbert/distilgpt2",
    **{name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")},
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
"""The hub's id of each model of the catalogue."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"\w[\w./-]*")
_DEFAULT_REVISION = "main"


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, "organisation/name"; a relative path may have it too."""
    return _HUB_ID.fullmatch(name) is not None


def split_revision(name: str) -> tuple[str, str | None]:
    """A base's name without the hub revision that it is pinned to, and that revision (a commit, a tag or a branch).

    Only names of the catalogue and hub ids can be pinned: in any other name, "@" is an ordinary character.
    """
    model, _, revision = name.partition("@")
    pinned = (model in HUB_IDS or is_hub_id(model)) and _REVISION.fullmatch(revision)
    return (model, revision) if pinned else (name, None)


def pinned(name: str, revision: str | None) -> str:
    """The name of a base at a revision of the hub; the name itself for a path, and for the hub's default revision."""
    name_at = f"{name}@{revision}"
    return name_at if revision != _DEFAULT_REVISION and split_revision(name_at) == (name, revision) else name


def hub_name(base_name: str | None) -> tuple[str | None, str | None]:
    """Return the name of a base in other programs, and the hub revision that its name pins.

    The name is the hub's id of a model of the catalogue, None for a bundled model, and the name itself for any other.
    """
    if base_name is None:
        return None, None
    model, revision = split_revision(base_name)
    return HUB_IDS.get(model, model), revision
