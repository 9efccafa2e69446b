"""What each model family calls its layers: attention, MLP, head and embedding, fused projections and their slices.

Knows names and shapes only, no tensor; `lora.targets` and the engine read it. A family that is not listed
gets `UNKNOWN`, which tries the names most decoder-only networks share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from tailora.core.errors import SettingsError

Part = Literal["q", "k", "v", "o"]

MEANINGS = ("attention", "attention.qv", "mlp", "all-linear", "head", "embedding")
"""The meanings a target may have; after "attention." any of the letters q, k, v and o may stand."""

_ATTENTION = re.compile(r"attention(?:\.([qkvo]+))?")


@dataclass(frozen=True)
class Target:
    """The end of a module path, and which parts of a fused projection are meant.

    Attributes:
        pattern: matched against the end of a module path by `adapters.config.matches`.
        parts: the slices meant where the module is a fused projection; None means the whole layer.
    """

    pattern: str
    parts: tuple[Part, ...] | None = None


@dataclass(frozen=True)
class Family:
    """The names a model family gives to its layers, as patterns for the ends of module paths.

    Attributes:
        name: the family's name, for messages.
        attention: the module that holds each projection; parts that share a module are fused in it, one
            below the other in the order q, k, v.
        mlp: the feed-forward layers.
        embedding: the token embedding.
        head: the vocabulary projection.
        final_norm: the normalisation before the head.
        blocks: the list of transformer blocks.
        gpt2_conv1d: whether projections are GPT-2's Conv1D, whose weight is stored as [in, out].
        interleaved: whether a fused projection mixes q, k and v head by head, so that no range of rows is one part.
    """

    name: str
    attention: Mapping[Part, str]
    mlp: tuple[str, ...]
    embedding: str
    head: str
    final_norm: str
    blocks: str
    gpt2_conv1d: bool = False
    interleaved: bool = False

    def targets(self, meaning: str) -> tuple[Target, ...] | None:
        """The targets a meaning stands for in this family, or None where the word is not a meaning.

        "all-linear" is decided by the type of a module, not by its name, so it is not answered here.

        Raises:
            SettingsError: on single parts of a projection that this family interleaves.
        """
        if meaning == "mlp":
            return tuple(Target(name) for name in self.mlp)
        if meaning == "head":
            return (Target(self.head),)
        if meaning == "embedding":
            return (Target(self.embedding),)
        match = _ATTENTION.fullmatch(meaning)
        if match is None:
            return None
        if match[1] is None:
            return tuple(Target(name) for name in dict.fromkeys(self.attention.values()))
        return self._attention_parts(meaning, cast("tuple[Part, ...]", tuple(dict.fromkeys(match[1]))))

    def _attention_parts(self, meaning: str, parts: tuple[Part, ...]) -> tuple[Target, ...]:
        found = []
        for name in dict.fromkeys(self.attention[part] for part in parts):
            fused = tuple(part for part, module in self.attention.items() if module == name)
            wanted = tuple(part for part in fused if part in parts)
            if len(fused) > 1 and self.interleaved:
                raise SettingsError(
                    f"{self.name} interleaves q, k and v head by head in {name}, so they have no rows of their own",
                    where=f"target {meaning!r}",
                    hint='adapt the whole projection with "attention"',
                )
            found.append(Target(name, wanted if len(fused) > 1 else None))
        return tuple(found)


def fused_rows(part: Part, out_features: int, hidden: int) -> tuple[int, int]:
    """The outputs of one part in a projection that stacks q, k and v.

    Args:
        part: "q", "k" or "v".
        out_features: outputs of the fused layer.
        hidden: its inputs, which is also the number of query outputs; keys and values share what is left equally,
            fewer than the queries where heads are grouped.

    Returns:
        The half-open range of outputs.

    Raises:
        SettingsError: where the shapes leave no such stacking.
    """
    rest = out_features - hidden
    if rest < 2 or rest % 2 or rest // 2 > hidden:
        raise SettingsError(
            f"a layer with {hidden} inputs and {out_features} outputs is no stack of q, k and v",
            hint='adapt the whole layer with "attention"',
        )
    size = rest // 2
    return {"q": (0, hidden), "k": (hidden, hidden + size), "v": (hidden + size, out_features)}[part]


_SEPARATE: dict[Part, str] = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
}


def _stacked(fused: str, output: str) -> dict[Part, str]:
    return {"q": fused, "k": fused, "v": fused, "o": output}


GPT2 = Family(
    name="GPT-2",
    attention=_stacked("attn.c_attn", "attn.c_proj"),
    mlp=("mlp.c_fc", "mlp.c_proj"),
    embedding="wte",
    head="lm_head",
    final_norm="ln_f",
    blocks="h",
    gpt2_conv1d=True,
)

LLAMA = Family(
    name="Llama",
    attention=_SEPARATE,
    mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    embedding="embed_tokens",
    head="lm_head",
    final_norm="norm",
    blocks="layers",
)

PHI3 = Family(
    name="Phi-3",
    attention=_stacked("self_attn.qkv_proj", "self_attn.o_proj"),
    mlp=("mlp.gate_up_proj", "mlp.down_proj"),
    embedding="embed_tokens",
    head="lm_head",
    final_norm="norm",
    blocks="layers",
)

OPT = Family(
    name="OPT",
    attention=_SEPARATE | {"o": "self_attn.out_proj"},
    mlp=("fc1", "fc2"),
    embedding="embed_tokens",
    head="lm_head",
    final_norm="final_layer_norm",
    blocks="layers",
)

GPT_NEO = Family(
    name="GPT-Neo",
    attention={
        "q": "attention.q_proj",
        "k": "attention.k_proj",
        "v": "attention.v_proj",
        "o": "attention.out_proj",
    },
    mlp=("mlp.c_fc", "mlp.c_proj"),
    embedding="wte",
    head="lm_head",
    final_norm="ln_f",
    blocks="h",
)

GPT_NEOX = Family(
    name="GPT-NeoX",
    attention=_stacked("attention.query_key_value", "attention.dense"),
    mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    embedding="embed_in",
    head="(?:embed_out|lm_head)",
    final_norm="final_layer_norm",
    blocks="layers",
    interleaved=True,
)

BLOOM = Family(
    name="BLOOM",
    attention=_stacked("self_attention.query_key_value", "self_attention.dense"),
    mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    embedding="word_embeddings",
    head="lm_head",
    final_norm="ln_f",
    blocks="h",
    interleaved=True,
)

UNKNOWN = Family(
    name="this model",
    attention={"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "(?:o_proj|out_proj)"},
    mlp=("(?:gate_proj|up_proj|down_proj|fc1|fc2|c_fc|mlp.c_proj)",),
    embedding="(?:embed_tokens|wte)",
    head="lm_head",
    final_norm="norm",
    blocks="layers",
)

FAMILIES: dict[str, Family] = {
    "gpt2": GPT2,
    **dict.fromkeys(
        [
            *("llama", "mistral", "smollm3", "olmo", "olmo2", "olmo3", "granite", "stablelm"),
            *("qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"),
        ],
        LLAMA,
    ),
    "phi3": PHI3,
    "opt": OPT,
    "gpt_neo": GPT_NEO,
    "gpt_neox": GPT_NEOX,
    "bloom": BLOOM,
}
"""Families by transformers' `model_type`."""


def family_of(model_type: str | None) -> Family:
    """The family of a transformers `model_type`; `UNKNOWN` for any other network."""
    return FAMILIES.get(model_type or "", UNKNOWN)


_TIED_BY_DEFAULT = ("gpt2", "bloom", "opt", "gpt_neo", "smollm3", "gemma", "gemma2", "gemma3_text")


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether head and embedding are one tensor by a config.json, or by the family's default where it says nothing."""
    return bool(config.get("tie_word_embeddings", config.get("model_type") in _TIED_BY_DEFAULT))
