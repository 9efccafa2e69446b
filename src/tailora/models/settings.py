"""The settings for base models and devices that commands share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tailora.core.settings import Settings, Unset

BASE = (
    "Base model: a name from `tailora models`, a folder, a .gguf file, or a Hugging Face hub id. A name or hub id can "
    "be followed by @REVISION, a commit, tag or branch of the hub."
)
DeviceName = Annotated[
    str, Field(description="Device to compute on: cpu, cuda, cuda:N, or auto (a GPU if there is one, else the CPU).")
]
QuantizedType = Literal["int8", "bf16", "fp16"]


class BaseSettings(Settings):
    """The base model of an adapter."""

    heading = "model"
    base: Annotated[str | None, Field(description=BASE), Unset("the one that the adapter names")] = None
    force: bool = False
    """Accept an adapter that was trained on another base model's weights."""
