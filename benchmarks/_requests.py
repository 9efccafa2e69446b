"""The inputs of every arm of `serving.py`: prompts, a base in its folder, adapters with random values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.data import records
from tailora.data.prompts import encode_prompts
from tailora.data.tokenizer import Tokenizer
from tailora.models.catalog import resolve

RANK = 16
LAYERS = {"gpt2": ("attn.c_attn",), "llama": ("self_attn.q_proj", "self_attn.v_proj")}


def prepare(work: Path, base: str, data: str, *, prompts: int, adapters: int) -> dict[str, Any]:
    """Lay out, once, what the arms read; returns where it lies.

    Args:
        work: a folder for it.
        base: name, wheel or folder of the base model.
        data: records to take prompts from, the first of each kind that it has.
        prompts: how many.
        adapters: how many to write as PEFT folders, for the peers.
    """
    resolved = resolve(base)
    tokenizer = Tokenizer.from_folder(resolved.folder)
    rows = records.read(data)[:prompts]
    work.mkdir(parents=True, exist_ok=True)
    told = {
        "folder": str(resolved.folder),
        "model_type": json.loads((resolved.folder / "config.json").read_text(encoding="utf-8"))["model_type"],
        "end": tokenizer.eos_id,
        "prompts": [list(tokens) for tokens in encode_prompts(rows, tokenizer, form="arrow", style="paper")],
        "adapters": [],
    }
    told["texts"] = [tokenizer.decode(tokens) for tokens in told["prompts"]]
    for number in range(adapters):
        folder = work / f"adapter-{number}"
        if not folder.is_dir():
            formats.save(random_adapter(resolved.folder, told["model_type"], number), folder)
        told["adapters"].append(str(folder))
    (work / "requests.json").write_text(json.dumps(told), encoding="utf-8")
    return told


def random_adapter(folder: Path, model_type: str, seed: int) -> Adapter:
    """Rank 16 on the queries and values, on GPT-2's fused projection as a whole."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    generator = np.random.default_rng(seed)

    def layer(kind: Any, inputs: int, outputs: int) -> LayerAdapter:
        a, b = (generator.normal(0, 0.02, shape).astype(np.float32) for shape in ((RANK, inputs), (outputs, RANK)))
        return LayerAdapter(kind, (LowRank(a, b, 1.0),), out=outputs)

    layers = {}
    if model_type == "gpt2":
        width, names = config["n_embd"], ["c_attn"]
        for number in range(config["n_layer"]):
            layers[f"transformer.h.{number}.attn.c_attn"] = layer("gpt2_conv1d", width, 3 * width)
    else:
        width, names = config["hidden_size"], ["q_proj", "v_proj"]
        head = config.get("head_dim") or width // config["num_attention_heads"]
        heads = {"q_proj": config["num_attention_heads"], "v_proj": config["num_key_value_heads"]}
        for number in range(config["num_hidden_layers"]):
            for name in names:
                layers[f"model.layers.{number}.self_attn.{name}"] = layer("linear", width, heads[name] * head)
    return Adapter(LoraConfig(rank=RANK, alpha=RANK, targets=tuple(names)), layers)
