"""llama.cpp's own server on a model, in this process, from the package xllamacpp."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

xllamacpp: Any = pytest.importorskip("xllamacpp", reason="xllamacpp, which contains llama.cpp, is not installed")


class LlamaCpp:
    """A model in llama.cpp, which keeps keys and values in fp32."""

    def __init__(self, gguf: Path, context: int = 96) -> None:
        options = xllamacpp.CommonParams()
        options.model.path = str(gguf)
        options.n_ctx, options.n_parallel, options.n_gpu_layers, options.warmup = context, 1, 0, False
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.verbosity = -1
        self._server = xllamacpp.Server(options)

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """The token ids of a text, as of a prompt: after the beginning-of-text token that the model asks for."""
        return list(self._asked("/tokenize", content=text, add_special=True, parse_special=special)["tokens"])

    def likeliest(self, prompt: tuple[int, ...]) -> tuple[int, float] | None:
        """The likeliest token after a prompt with its log-probability; None if it is a part of a character.

        The server reports tokens as text, and leaves out what is not yet a character.
        """
        settings = {"n_predict": 1, "n_probs": 1, "temperature": 0, "repeat_penalty": 1, "ignore_eos": True}
        steps = self._asked("/completion", prompt=list(prompt), **settings).get("completion_probabilities")
        return (steps[0]["id"], steps[0]["logprob"]) if steps else None

    def _asked(self, route: str, **body: Any) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._server.listening_address + route, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: dict[str, Any] = json.load(answer)
        return content
