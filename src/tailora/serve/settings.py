"""The settings of `tailora serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from tailora.core.errors import SettingsError
from tailora.core.settings import Settings, Verbatim
from tailora.inference.model_settings import BackendName, Precision, named_adapters


class ServeSettings(Settings):
    """Settings of `tailora serve`."""

    base: str | None = None
    """Base model: a name (see `tailora models`), a folder or a hub id; by default the one that the adapters name."""
    adapter: Annotated[tuple[str, ...], Verbatim()] = ()
    """An adapter as NAME=PATH; requests choose it by its name. Again for more."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone, 0.0.0.0 from any."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    backend: BackendName = "auto"
    """What computes: openvino, torch, or auto."""
    precision: Precision = "auto"
    """Of the products: int8, bf16, fp32, or auto."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    sequences: int = Field(32, ge=1)
    """Most texts written at once, beams counted; requests beyond wait."""
    cache_tokens: int = Field(16384, ge=64)
    """Tokens that the cache of keys and values holds, for all requests together."""
    adapter_folder: Path | None = None
    """Let clients load adapters from this folder, and unload adapters, while the server runs; off unless named."""
    slots: int = Field(8, ge=1)
    """Adapters that a step can mix, where adapters may be loaded later."""
    max_rank: int = Field(16, ge=1)
    """Most rank that an adapter loaded later may have."""
    api_keys: Path | None = None
    """File of hashed API keys (see `tailora key`); without one, and without TAILORA_API_KEYS, none is asked for."""
    queue: int = Field(256, ge=1)
    """Most texts under way or waiting; a request beyond is answered with 429."""
    timeout: float = Field(300.0, gt=0)
    """Seconds that a request may take."""
    drain: float = Field(30.0, ge=0)
    """Seconds that requests under way have to end after SIGTERM; new ones are refused."""
    max_body: int = Field(1 << 20, ge=1024)
    """Most bytes of a request's body."""
    max_prompt: int | None = Field(None, ge=1)
    """Most tokens of a prompt; by default what the model's context takes."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may call this server from a browser, as https://example.org; again for more."""
    log_texts: bool = False
    """Write prompts and texts into the log."""
    force: bool = False
    """Accept adapters that were trained on other weights than the base has."""

    @model_validator(mode="after")
    def _combination(self) -> Self:
        if not self.adapter and self.base is None:
            raise SettingsError("neither a base model nor an adapter", where="base", hint="name one of them")
        if self.adapter_folder is not None and not self.adapter_folder.is_dir():
            raise SettingsError(f"{self.adapter_folder} is no folder", where="adapter_folder", hint="make it first")
        named_adapters(self.adapter)
        return self
