"""The settings of `tailora serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from tailora.core.errors import SettingsError
from tailora.core.settings import Settings, Verbatim
from tailora.inference.model_settings import BackendName, PrecisionName, named_adapters


class ServeSettings(Settings):
    """Settings of `tailora serve`."""

    base: str | None = None
    """Base model: a name (see `tailora models`), a folder or a hub id. By default the one that the adapters name."""
    adapter: Annotated[tuple[str, ...], Verbatim()] = ()
    """Adapter as NAME=PATH; requests select it by its name. Repeat the flag for several."""
    host: str = "127.0.0.1"
    """Address to listen on. The default accepts connections from this machine only, 0.0.0.0 from any machine."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 chooses a free one."""
    backend: BackendName = "auto"
    """Inference engine. auto uses OpenVINO on a CPU if it supports the model, and torch otherwise."""
    precision: PrecisionName = "auto"
    """PrecisionName of the matrix products. auto chooses the fastest by timing them on this machine."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, or auto."""
    sequences: int = Field(32, ge=1)
    """Largest number of texts written at the same time, each beam counted; further requests wait."""
    cache_tokens: int = Field(16384, ge=64)
    """Size of the key-value cache in tokens, for all requests together."""
    adapter_folder: Path | None = None
    """Folder that clients may load adapters from while the server runs. By default they cannot load adapters."""
    slots: int = Field(8, ge=1)
    """Largest number of adapters in one step of the engine, if clients may load adapters."""
    max_rank: int = Field(16, ge=1)
    """Largest rank of an adapter that clients load."""
    api_keys: Path | None = None
    """File of hashed API keys (see `tailora key`). Without it and TAILORA_API_KEYS requests need no key."""
    queue: int = Field(256, ge=1)
    """Largest number of texts in progress or waiting; further requests get status 429."""
    timeout: float = Field(300.0, gt=0)
    """Seconds that a request may take, waiting included; then it gets status 504."""
    drain: float = Field(30.0, ge=0)
    """Seconds that open requests have to end after SIGTERM or Ctrl-C; new requests get status 503."""
    max_body: int = Field(1 << 20, ge=1024)
    """Largest size of a request's body in bytes, after decompression; larger ones get status 413."""
    max_prompt: int | None = Field(None, ge=1)
    """Largest number of tokens of a prompt. By default what the model's context allows."""
    cors: tuple[str, ...] = ()
    """Origin whose web pages may call this server, such as https://example.org. Repeat the flag for several."""
    log_texts: bool = False
    """Write prompts and texts to the log."""
    force: bool = False
    """Accept adapters that were trained on a base with other weights."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if not self.adapter and self.base is None:
            what = "neither a base model nor an adapter is named"
            raise SettingsError(what, where="base", hint="name one with --base or --adapter")
        if self.adapter_folder is not None and not self.adapter_folder.is_dir():
            what = f"{self.adapter_folder} is not a folder"
            raise SettingsError(what, where="adapter_folder", hint="create it first")
        named_adapters(self.adapter)
        return self
