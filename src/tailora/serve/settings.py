"""The settings of `tailora serve`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

from tailora.core.errors import SettingsError
from tailora.core.hub_connection import LARGEST_ADAPTER
from tailora.core.problems import FieldError
from tailora.core.settings import Unset, Verbatim
from tailora.data.mixtures import Mixture, MixtureError, parse_mixture, read_mixture
from tailora.inference.model_settings import AdaptersSettings, EngineSettings


def _compositions(value: Any) -> Any:
    """Return mixtures by name from the texts of flags, or from a mapping of mappings."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        texts = [str(text).partition("=") for text in value]
        for name, equals, _ in texts:
            if not equals:
                raise FieldError(f"{name!r} has no adapters", "write NAME=ADAPTER:WEIGHT+ADAPTER:WEIGHT")
        if len({name for name, _, _ in texts}) < len(texts):
            raise FieldError("two compositions have one name", "give each its own name")
        value = {name: mixture for name, _, mixture in texts}
    if not isinstance(value, Mapping):
        raise FieldError("is not a mapping", "write {name: {adapter: weight}}")
    return {_model_name(name): _mixture(name, mixture) for name, mixture in value.items()}


def _model_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > 200 or not name.isprintable():
        raise FieldError(f"{name!r} is not a valid name", "use up to 200 printable characters")
    return name


def _mixture(name: str, value: Any) -> Mixture:
    try:
        if isinstance(value, str):
            return parse_mixture(value)
        if isinstance(value, Mapping | list | tuple):
            return read_mixture(value)
    except MixtureError as error:
        raise FieldError(f"{name}: {error}", error.hint) from error
    raise FieldError(f"{name}: names no adapters", "write {adapter: weight}")


class ServeSettings(AdaptersSettings, EngineSettings):
    """Settings of `tailora serve`."""

    heading = "limits"
    main = "adapter"
    headings: ClassVar = {
        **dict.fromkeys(("adapter_folder", "compositions", "slots", "max_rank"), "model"),
        **dict.fromkeys(("allow_hub", "hub_max_bytes", "hub_loaded"), "model"),
        **dict.fromkeys(("host", "port", "drain", "log_texts", "lenient", "otlp"), "server"),
        **dict.fromkeys(("api_keys", "cors"), "access"),
    }
    adapter_folder: Annotated[Path | None, Unset("off")] = None
    """Folder from which clients may load and unload adapters while the server runs."""
    compositions: Annotated[dict[str, Any], Verbatim(), BeforeValidator(_compositions), Unset("none")] = Field(
        default_factory=dict
    )
    """Adapters with weights that clients name as one model: NAME=ADAPTER:WEIGHT+ADAPTER:WEIGHT, in YAML
    {name: {adapter: weight}}. Repeat the flag for several."""
    allow_hub: Annotated[tuple[str, ...], Unset("none")] = ()
    """Organisation of the Hugging Face hub, or ORGANISATION/NAME of an adapter, that requests may name as model, with
    @REVISION if needed. It is loaded when it is first named. Repeat the flag for several; `all` allows any."""
    hub_max_bytes: int = Field(LARGEST_ADAPTER, ge=1024)
    """Maximum size of an adapter that a request loads from the hub, in bytes."""
    hub_loaded: int = Field(64, ge=1)
    """Maximum number of adapters from the hub in memory. The least recently used one is unloaded first."""
    slots: int = Field(8, ge=1)
    """Number of adapters that can compute at the same time, if clients may load adapters or name adapters of the
    hub."""
    max_rank: int = Field(16, ge=1)
    """Maximum rank of an adapter that a client loads."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is reachable from this machine only; 0.0.0.0 is reachable from any machine."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on. 0 chooses a free one."""
    drain: float = Field(30.0, ge=0)
    """Seconds that open requests have to finish after SIGTERM or Ctrl-C. New requests get status 503 meanwhile."""
    log_texts: bool = False
    """Write prompts and texts to the log."""
    api_keys: Annotated[Path | None, Unset("no key is required, unless TAILORA_API_KEYS is set")] = None
    """YAML file of hashed API keys, as `tailora key` writes it."""
    otlp: Annotated[str | None, Unset("no traces")] = Field(None, pattern="^https?://")
    """Address of an OpenTelemetry collector that gets a span for each request, for example http://127.0.0.1:4318."""
    lenient: bool = False
    """Ignore unknown fields of requests, and name them in the response header X-Ignored-Fields. By default they are an
    error."""
    cors: Annotated[tuple[str, ...], Unset("none")] = ()
    """Origin whose pages may call this server from a browser, for example https://example.org. Repeat the flag for
    several."""
    sequences: int = Field(32, ge=1)
    """Maximum number of texts that are written at the same time, counting each beam. Further requests wait."""
    cache_tokens: int = Field(16384, ge=64)
    """Size of the key-value cache for all requests together, in tokens."""
    queue: int = Field(256, ge=1)
    """Maximum number of texts that are running or waiting. Further requests get status 429."""
    timeout: float = Field(300.0, gt=0)
    """Maximum duration of a request in seconds, waiting included. Then it gets status 504."""
    max_body: int = Field(1 << 20, ge=1024)
    """Maximum size of a request's body in bytes, after decompression. Larger ones get status 413."""
    max_prompt: Annotated[int | None, Field(ge=1), Unset("the model's context")] = None
    """Maximum length of a prompt, in tokens."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if not self.adapter and self.base is None:
            raise SettingsError(
                "no adapter and no base model named", where="base", hint="name one with --adapter or --base"
            )
        if self.adapter_folder is not None and not os.path.isdir(self.adapter_folder):
            raise SettingsError(
                f"{self.adapter_folder} is not a folder", where="adapter_folder", hint="create it first"
            )
        self.adapters()
        return self
