"""The peers' arms of `drafts.py`. Each runs in the peer's own Python environment and imports nothing of Tailora.

    PYTHON _drafts_peers.py ARM REQUESTS.json NEW_TOKENS SECONDS THREADS

prints one JSON line, `{"seconds": …`. Prompts follow one another, and each text ends at its end-of-text token.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _serving_peers import exported

Given = dict[str, Any]
Write = Callable[[Sequence[int]], int]
"""Writes the text after a prompt, and returns its number of tokens."""


def genai(given: Given, new_tokens: int, threads: int, *, lookup: bool) -> Write:
    """OpenVINO GenAI with int8 weights, with or without its prompt lookup, at the documented settings of its sample."""
    import numpy as np
    import openvino as ov
    import openvino_genai

    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if lookup:
        options["prompt_lookup"] = True
    pipeline = openvino_genai.LLMPipeline(str(exported(Path(given["folder"]), "int8")), "CPU", **options)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.do_sample = new_tokens, False
    config.stop_token_ids, config.eos_token_id = set(given["ends"]), given["ends"][0]
    if lookup:
        config.num_assistant_tokens, config.max_ngram_size = 5, 3

    def write(prompt: Sequence[int]) -> int:
        done = pipeline.generate(ov.Tensor(np.array([prompt], np.int64)), config)
        return len(done.tokens[0])

    return write


def llama_cpp(given: Given, new_tokens: int, threads: int, *, lookup: bool) -> Write:
    """llama.cpp through its Python binding, Q8_0, with or without the binding's prompt lookup."""
    from llama_cpp import Llama
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    # Ten tokens are the default; the binding recommends two on a CPU.
    draft = LlamaPromptLookupDecoding(num_pred_tokens=2) if lookup else None
    options: dict[str, Any] = {"n_ctx": 512, "n_threads": threads, "n_threads_batch": threads, "verbose": False}
    model = Llama(os.environ["DRAFTS_GGUF"], draft_model=draft, logits_all=lookup, **options)
    ends = set(given["ends"])

    def write(prompt: Sequence[int]) -> int:
        model.reset()
        written = 0
        for token in model.generate(list(prompt), temp=0.0, top_k=1):
            written += 1
            if written == new_tokens or token in ends:
                break
        return written

    return write


ARMS: dict[str, Callable[[Given, int, int], Write]] = {
    "genai": lambda g, n, t: genai(g, n, t, lookup=False),
    "genai_lookup": lambda g, n, t: genai(g, n, t, lookup=True),
    "llama": lambda g, n, t: llama_cpp(g, n, t, lookup=False),
    "llama_lookup": lambda g, n, t: llama_cpp(g, n, t, lookup=True),
}


def main() -> None:
    """Measure one arm: a pass over all prompts to warm up, then passes for at least SECONDS seconds."""
    arm, requests, new_tokens, seconds, threads = sys.argv[1:]
    given = json.loads(Path(requests).read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(sys.stderr):
        write = ARMS[arm](given, int(new_tokens), int(threads))
        laps: list[tuple[float, int]] = []
        while len(laps) < 2 or sum(lap[0] for lap in laps[1:]) < float(seconds):
            began = time.perf_counter()
            tokens = sum(write(prompt) for prompt in given["prompts"])
            laps.append((time.perf_counter() - began, tokens))
    speed = statistics.median(tokens / took for took, tokens in laps[1:])
    result = {"seconds": sum(lap[0] for lap in laps[1:]), "tokens_per_second": speed, "tokens": laps[-1][1]}
    # Alone on its line: processes that an engine started may still write to the same stream.
    print("\n" + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
