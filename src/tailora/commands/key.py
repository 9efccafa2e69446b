"""`tailora key`: a new API key for `tailora serve`, kept as a hash and printed once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tailora.core.settings import Settings, Unset
from tailora.serve.keys import add_key


class KeySettings(Settings):
    """Settings of `tailora key`."""

    name: str = Field(min_length=1)
    """Who or what the key is for. The server's log shows this name."""
    model: Annotated[tuple[str, ...], Unset("all models")] = ()
    """Model that the key may use. Repeat the flag for several."""
    admin: bool = False
    """Allow requests with this key to load and unload adapters, and to reload the server's configuration."""
    requests_per_minute: Annotated[int | None, Unset("any number")] = Field(None, ge=1)
    """Maximum number of requests a minute. Further ones get status 429."""
    tokens_per_minute: Annotated[int | None, Unset("any number")] = Field(None, ge=1)
    """Maximum number of tokens a minute, of prompts and texts together. Further requests get status 429."""
    output: Path
    """YAML file of hashed keys. It is created if it does not exist; otherwise the key is added to it."""


def run(settings: KeySettings) -> dict[str, Any]:
    """Create a key, print it this once, and keep its hash.

    Returns:
        The key, its name and its file.

    Raises:
        SettingsError: the file already has a key of this name.
        DataError: the file is not a file of keys.
    """
    key = add_key(
        settings.output,
        settings.name,
        models=settings.model or None,
        admin=settings.admin,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )
    print(key)
    return {"name": settings.name, "key": key, "file": str(settings.output)}
