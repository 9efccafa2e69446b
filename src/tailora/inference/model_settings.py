"""The settings of a base model, its adapters and the backend."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tailora.core.errors import SettingsError
from tailora.core.settings import Settings, Unset, Verbatim
from tailora.data.linearize import Linearization
from tailora.data.prompts import PromptForm
from tailora.engine.backend import Precision
from tailora.engine.drafting import LONGEST
from tailora.models.settings import BaseSettings, DeviceName

BackendName = Literal["auto", "openvino", "torch"]
PrecisionName = Literal["auto", Precision]
_NAMED = re.compile(r"([\w.-]+)=(.+)")  # a name has no slash, so that a path with = in it is seldom taken for one


class EngineSettings(Settings):
    """The backend and its precision."""

    heading = "computation"
    backend: BackendName = "auto"
    """Inference backend. auto is openvino on a CPU if it supports the architecture, and torch otherwise."""
    precision: PrecisionName = "auto"
    """Precision of matrix products. auto is int8 with OpenVINO and fp32 with torch, unless another one is more than 10%
    faster on this machine."""
    device: DeviceName = "auto"
    drafts: int = Field(LONGEST, ge=0, le=32)
    """Maximum number of tokens that a step drafts for a text, from the prompt and from the adapter's training texts. 0
    turns drafts off. Drafts change the speed, not the texts."""


class AdaptersSettings(BaseSettings):
    """A base model and any number of adapters on it."""

    adapter: Annotated[tuple[str, ...], Verbatim(), Unset("none")] = ()
    """Adapter: a folder, a file, a run directory, or ORGANISATION/NAME@REVISION on the Hugging Face hub, optionally
    named, as NAME=PATH. Repeat the flag for several."""

    def adapters(self) -> dict[str, Path]:
        """Return the adapters' paths by name; an adapter without a name has its path as its name."""
        return named_adapters(self.adapter)


class ModelSettings(AdaptersSettings, EngineSettings):
    """The model that writes texts: a base, its adapters, their prompts and the backend."""

    headings: ClassVar = {
        "linearization": "prompt",
        "prompt_form": "prompt",
        "batch_size": "computation",
        "merged": "model",
    }
    merged: bool = False
    """Merge the adapter into the weights before writing. The results are the same and writing is slightly faster."""
    linearization: Annotated[Linearization | None, Unset("as in the adapter's training, else paper")] = None
    """How facts become a line of text: paper (name : Blue Spice | …) or plain (name: Blue Spice; …)."""
    prompt_form: Annotated[PromptForm | None, Unset("as in the adapter's training, arrow for a base alone")] = None
    """How that line becomes a prompt: paper appends the end-of-text token, arrow appends =>, and chat uses the base's
    chat template."""
    batch_size: int = Field(32, ge=1)
    """Number of records that are written about at the same time."""

    def check_model(self) -> None:
        """Raise `SettingsError` unless an adapter or a base model is named."""
        if not self.adapter and self.base is None:
            raise SettingsError(
                "no adapter and no base model named", where="adapter", hint="name one with --adapter or --base"
            )
        if self.merged and len(self.adapter) != 1:
            what = "only one adapter can be merged" if self.adapter else "no adapter to merge"
            raise SettingsError(what, where="merged", hint="name one with --adapter")
        self.adapters()


def named_adapters(texts: Sequence[str]) -> dict[str, Path]:
    """Return paths by name from texts like `NAME=PATH`; an adapter without a name has its path as its name.

    Raises:
        SettingsError: two adapters have the same name.
    """
    paths: dict[str, Path] = {}
    for text in texts:
        named = None if os.path.exists(text) else _NAMED.fullmatch(text)
        name, path = (named[1], named[2]) if named else (text, text)
        if name in paths:
            raise SettingsError(f"two adapters have the name {name}", where="adapter", hint="give each its own name")
        paths[name] = Path(path)
    return paths
