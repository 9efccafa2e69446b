"""What Tailora knows of each model family: the names of its layers, how llama.cpp stores it, and what runs it.

Knows names and shapes only, no tensor. Targets, training, both engine backends, GGUF adapters and quantisation read it.
A family that is not listed gets `UNKNOWN`, which tries the names most decoder-only networks share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from tailora.core.errors import SettingsError

Part = Literal["q", "k", "v", "o"]
PathEnds = tuple[str, ...]
"""Literal ends of module paths, such as ("attn.c_attn",): never regular expressions, unlike the targets of a user."""
RowOrder = Literal["as in transformers", "rotary pairs", "stacked"]

MEANINGS = ("attention", "attention.qv", "mlp", "all-linear", "head", "embedding")
"""The meanings that a target can have; "attention." can be followed by any of the letters q, k, v and o."""

_ATTENTION = re.compile(r"attention(?:\.([qkvo]+))?")


def ends_in(path: str, ends: Iterable[str]) -> bool:
    """Whether a module path is one of some ends, or ends in one of them from a dot on."""
    return any(path == end or path.endswith(f".{end}") for end in ends)


@dataclass(frozen=True)
class Target:
    """Modules to adapt, and which parts of a fused projection.

    Attributes:
        ends: the ends of the modules' paths.
        parts: the slices of a fused projection; None means the whole layer.
    """

    ends: PathEnds
    parts: tuple[Part, ...] | None = None


@dataclass(frozen=True)
class LlamaCpp:
    """How llama.cpp stores the networks of a family (ggml-org/llama.cpp, `conversion/`).

    Attributes:
        name: its name of the architecture.
        rows: the order of the outputs of attention's projections. "rotary pairs": in q and k, outputs that are rotated
            together are neighbours, where transformers has them half a head apart. "stacked": all of q, then k, then
            v, where transformers interleaves them head by head.
    """

    name: str
    rows: RowOrder = "as in transformers"


@dataclass(frozen=True)
class Family:
    """One architecture of transformers: the names of its layers, and what Tailora can do with it.

    Attributes:
        name: the family's name, for messages and tables.
        attention: the module that holds each projection; parts that share a module are fused in it, one below the
            other in the order q, k, v.
        mlp: the feed-forward layers.
        embedding: the token embedding.
        head: the vocabulary projection.
        final_norm: the normalisation before the head.
        blocks: the list of transformer blocks.
        gpt2_conv1d: whether projections are GPT-2's Conv1D, whose weight is stored as [in, out].
        interleaved: whether a fused projection mixes q, k and v head by head, so that no range of rows is one part.
        tied: whether head and embedding are one tensor where config.json does not say.
        trained: whether an adapter can be trained on it: its attention is one that prefix trees can replace.
        openvino: whether the engine has an OpenVINO graph for it; its torch backend runs every family.
        llama_cpp: how llama.cpp stores it; None where that is not known, so that no GGUF adapter is read or written.
    """

    name: str
    attention: Mapping[Part, PathEnds]
    mlp: PathEnds
    embedding: PathEnds
    head: PathEnds
    final_norm: str
    blocks: str
    gpt2_conv1d: bool = False
    interleaved: bool = False
    tied: bool = False
    trained: bool = True
    openvino: bool = False
    llama_cpp: LlamaCpp | None = None

    def targets(self, meaning: str) -> tuple[Target, ...] | None:
        """The targets of a meaning in this family, or None where the word is not a meaning.

        "all-linear" is decided by the type of a module, not by its name, so it is not answered here.

        Raises:
            SettingsError: on single parts of a projection that this family interleaves.
        """
        if meaning == "mlp":
            return tuple(Target((end,)) for end in self.mlp)
        if meaning == "head":
            return (Target(self.head),)
        if meaning == "embedding":
            return (Target(self.embedding),)
        match = _ATTENTION.fullmatch(meaning)
        if match is None:
            return None
        if match[1] is None:
            return tuple(Target(ends) for ends in dict.fromkeys(self.attention.values()))
        return self._attention_parts(meaning, cast("tuple[Part, ...]", tuple(dict.fromkeys(match[1]))))

    def _attention_parts(self, meaning: str, parts: tuple[Part, ...]) -> tuple[Target, ...]:
        targets = []
        for ends in dict.fromkeys(self.attention[part] for part in parts):
            fused = tuple(part for part, module in self.attention.items() if module == ends)
            wanted = tuple(part for part in fused if part in parts)
            if len(fused) > 1 and self.interleaved:
                raise SettingsError(
                    f"{self.name} interleaves q, k and v head by head in {ends[0]}, so none of them is a block of rows",
                    where=f"target {meaning!r}",
                    hint='adapt the whole projection with "attention"',
                )
            targets.append(Target(ends, wanted if len(fused) > 1 else None))
        return tuple(targets)


def fused_rows(part: Part, out_features: int, queries: int) -> tuple[int, int]:
    """The outputs of one part in a projection that stacks q, k and v.

    Args:
        part: "q", "k" or "v".
        out_features: outputs of the fused layer.
        queries: outputs of the queries; keys and values share the rest equally, fewer than the queries where heads are
            grouped.

    Returns:
        The half-open range of outputs.

    Raises:
        SettingsError: the shapes are not those of such a stack.
    """
    rest = out_features - queries
    if rest < 2 or rest % 2 or rest // 2 > queries:
        raise SettingsError(
            f"a layer with {out_features} outputs, {queries} of them of queries, is not a stack of q, k and v",
            hint='adapt the whole layer with "attention"',
        )
    size = rest // 2
    return {"q": (0, queries), "k": (queries, queries + size), "v": (queries + size, out_features)}[part]


_SEPARATE: dict[Part, PathEnds] = {
    "q": ("self_attn.q_proj",),
    "k": ("self_attn.k_proj",),
    "v": ("self_attn.v_proj",),
    "o": ("self_attn.o_proj",),
}


def _stacked(fused: str, output: str) -> dict[Part, PathEnds]:
    return {"q": (fused,), "k": (fused,), "v": (fused,), "o": (output,)}


_LLAMA = Family(
    name="Llama",
    attention=_SEPARATE,
    mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    embedding=("embed_tokens",),
    head=("lm_head",),
    final_norm="norm",
    blocks="layers",
)

UNKNOWN = Family(
    name="this model",
    attention={"q": ("q_proj",), "k": ("k_proj",), "v": ("v_proj",), "o": ("o_proj", "out_proj")},
    mlp=("gate_proj", "up_proj", "down_proj", "fc1", "fc2", "c_fc", "mlp.c_proj"),
    embedding=("embed_tokens", "wte"),
    head=("lm_head",),
    final_norm="norm",
    blocks="layers",
)
"""Names that most decoder-only networks use; a network has some of them."""

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        name="GPT-2",
        attention=_stacked("attn.c_attn", "attn.c_proj"),
        mlp=("mlp.c_fc", "mlp.c_proj"),
        embedding=("wte",),
        head=("lm_head",),
        final_norm="ln_f",
        blocks="h",
        gpt2_conv1d=True,
        tied=True,
        openvino=True,
        llama_cpp=LlamaCpp("gpt2"),
    ),
    "llama": replace(_LLAMA, openvino=True, llama_cpp=LlamaCpp("llama", "rotary pairs")),
    "mistral": replace(_LLAMA, name="Mistral", llama_cpp=LlamaCpp("llama", "rotary pairs")),
    "smollm3": replace(_LLAMA, name="SmolLM3", tied=True, llama_cpp=LlamaCpp("smollm3", "rotary pairs")),
    "granite": replace(_LLAMA, name="Granite", llama_cpp=LlamaCpp("granite", "rotary pairs")),
    "olmo": replace(_LLAMA, name="OLMo", llama_cpp=LlamaCpp("olmo", "rotary pairs")),
    "olmo2": replace(_LLAMA, name="OLMo 2", llama_cpp=LlamaCpp("olmo2")),
    "olmo3": replace(_LLAMA, name="OLMo 3", llama_cpp=LlamaCpp("olmo2")),
    "qwen2": replace(_LLAMA, name="Qwen 2", openvino=True, llama_cpp=LlamaCpp("qwen2")),
    "qwen3": replace(_LLAMA, name="Qwen 3", openvino=True, llama_cpp=LlamaCpp("qwen3")),
    "gemma": replace(_LLAMA, name="Gemma", tied=True, llama_cpp=LlamaCpp("gemma")),
    "gemma2": replace(_LLAMA, name="Gemma 2", tied=True, llama_cpp=LlamaCpp("gemma2")),
    "gemma3_text": replace(_LLAMA, name="Gemma 3", tied=True, openvino=True, llama_cpp=LlamaCpp("gemma3")),
    "stablelm": replace(_LLAMA, name="StableLM", trained=False, llama_cpp=LlamaCpp("stablelm")),
    "phi3": replace(
        _LLAMA,
        name="Phi-3",
        attention=_stacked("self_attn.qkv_proj", "self_attn.o_proj"),
        mlp=("mlp.gate_up_proj", "mlp.down_proj"),
        llama_cpp=LlamaCpp("phi3"),
    ),
    "phi": replace(
        _LLAMA,
        name="Phi",
        attention=_SEPARATE | {"o": ("self_attn.dense",)},
        mlp=("mlp.fc1", "mlp.fc2"),
        final_norm="final_layernorm",
        llama_cpp=LlamaCpp("phi2"),
    ),
    "opt": Family(
        name="OPT",
        attention=_SEPARATE | {"o": ("self_attn.out_proj",)},
        mlp=("fc1", "fc2"),
        embedding=("embed_tokens",),
        head=("lm_head",),
        final_norm="final_layer_norm",
        blocks="layers",
        tied=True,
    ),
    "gpt_neo": Family(
        name="GPT-Neo",
        attention={
            "q": ("attention.q_proj",),
            "k": ("attention.k_proj",),
            "v": ("attention.v_proj",),
            "o": ("attention.out_proj",),
        },
        mlp=("mlp.c_fc", "mlp.c_proj"),
        embedding=("wte",),
        head=("lm_head",),
        final_norm="ln_f",
        blocks="h",
        tied=True,
        trained=False,
    ),
    "gpt_neox": Family(
        name="GPT-NeoX",
        attention=_stacked("attention.query_key_value", "attention.dense"),
        mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        embedding=("embed_in",),
        head=("embed_out", "lm_head"),
        final_norm="final_layer_norm",
        blocks="layers",
        interleaved=True,
        llama_cpp=LlamaCpp("gptneox", "stacked"),
    ),
    "bloom": Family(
        name="BLOOM",
        attention=_stacked("self_attention.query_key_value", "self_attention.dense"),
        mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        embedding=("word_embeddings",),
        head=("lm_head",),
        final_norm="ln_f",
        blocks="h",
        interleaved=True,
        tied=True,
        trained=False,
        llama_cpp=LlamaCpp("bloom", "stacked"),
    ),
}
"""Families by transformers' `model_type`."""


def family_of(model_type: str | None) -> Family:
    """The family of a transformers `model_type`; `UNKNOWN` for any other network."""
    return FAMILIES.get(model_type or "", UNKNOWN)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether head and embedding are one tensor by a config.json, or by the family's default where it says nothing."""
    return bool(config.get("tie_word_embeddings", family_of(config.get("model_type")).tied))
