"""The bodies of vLLM's routes that load and unload adapters."""

from __future__ import annotations

from pydantic import Field

from tailora.serve.schema.body import Body


class LoadBody(Body):
    """Of POST /v1/load_lora_adapter, as vLLM has it."""

    lora_name: str = Field(min_length=1, max_length=200)
    """What clients will call the adapter."""
    lora_path: str = Field(min_length=1, max_length=4096)
    """Its folder, in the folder that the server reads adapters from."""
    load_inplace: bool = False
    """Let it take the place of an adapter of this name; requests under way keep the one they began with."""


class UnloadBody(Body):
    """Of POST /v1/unload_lora_adapter, as vLLM has it."""

    lora_name: str = Field(min_length=1, max_length=200)
    """The adapter."""
    lora_int_id: int | None = None
    """Taken without effect."""
