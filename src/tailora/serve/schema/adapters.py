"""The bodies of vLLM's routes that load and unload adapters."""

from __future__ import annotations

from pydantic import Field

from tailora.serve.schema.body import Body


class LoadBody(Body):
    """Body of POST /v1/load_lora_adapter, as vLLM has it."""

    lora_name: str = Field(min_length=1, max_length=200)
    """Name that clients will use for the adapter, up to 200 characters."""
    lora_path: str = Field(min_length=1, max_length=4096)
    """Folder of the adapter, inside the server's folder of adapters (its setting `adapter_folder`)."""
    load_inplace: bool = False
    """Replace an adapter of this name; requests in progress keep the version that they started with."""


class UnloadBody(Body):
    """Body of POST /v1/unload_lora_adapter, as vLLM has it."""

    lora_name: str = Field(min_length=1, max_length=200)
    """Name of the adapter."""
    lora_int_id: int | None = None
    """Accepted for compatibility and ignored."""
