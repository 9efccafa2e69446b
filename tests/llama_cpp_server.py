"""llama.cpp's own server on a model, from the package xllamacpp, in its own process: two in one process can hang."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

xllamacpp: Any = pytest.importorskip("xllamacpp", reason="xllamacpp, which contains llama.cpp, is not installed")

LIMIT = 60  # seconds for a start, and for an answer


class LlamaCpp:
    """A context manager around a model in llama.cpp, which keeps keys and values in fp32.

    Args:
        gguf: the model.
        lora: an adapter of it.
        context: largest number of tokens.
    """

    def __init__(self, gguf: Path, lora: Path | None = None, context: int = 96) -> None:
        options = {"model": str(gguf), "lora": None if lora is None else str(lora), "context": context}
        with tempfile.TemporaryDirectory() as folder:
            ready, log = Path(folder, "address"), Path(folder, "log")
            command = [sys.executable, __file__, json.dumps(options), str(ready)]
            with log.open("wb") as output:
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
            end = time.monotonic() + LIMIT
            while not ready.exists() and self._process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            if not ready.exists():
                self.close()
                raise AssertionError(f"llama.cpp does not load the model: {log.read_text(errors='replace')[-2000:]}")
            self._address = ready.read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """The token ids of a text, as of a prompt: after the beginning-of-text token that the model asks for."""
        return list(self._asked("/tokenize", content=text, add_special=True, parse_special=special)["tokens"])

    def likeliest(self, prompt: tuple[int, ...]) -> tuple[int, float] | None:
        """The likeliest token after a prompt with its log-probability; None if it is a part of a character.

        The server reports tokens as text, and leaves out what is not yet a character.
        """
        scores = self.logprobs(prompt, 1)
        return next(iter(scores.items())) if scores else None

    def logprobs(self, prompt: tuple[int, ...], count: int) -> dict[int, float]:
        """The log-probabilities of the likeliest tokens after a prompt; none if the first is a part of a character."""
        settings = {"n_predict": 1, "n_probs": count, "temperature": 0, "repeat_penalty": 1, "ignore_eos": True}
        steps = self._asked("/completion", prompt=list(prompt), **settings).get("completion_probabilities")
        return {token["id"]: token["logprob"] for token in steps[0]["top_logprobs"]} if steps else {}

    def _asked(self, route: str, **body: Any) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + route, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            content: dict[str, Any] = json.load(answer)
        return content


def serve(model: str, lora: str | None, context: int, ready: Path) -> None:
    """Serve a model until the standard input ends, and write the address to a file."""
    options = xllamacpp.CommonParams()
    options.model.path = model
    options.n_ctx, options.n_parallel, options.n_gpu_layers, options.warmup = context, 1, 0, False
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if lora is not None:
        options.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
    server = xllamacpp.Server(options)
    unfinished = ready.with_suffix(".part")
    unfinished.write_text(server.listening_address, encoding="utf-8")
    unfinished.rename(ready)
    sys.stdin.read()


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]), ready=Path(sys.argv[2]))
