"""The tokenizer of a model's folder as a GGUF describes it. No torch.

llama.cpp knows the rules that split a text before byte pairs are merged by name. A rule without a name
here is refused: another rule would give other tokens without any error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailora.core.errors import ModelError
from tailora.core.files import read_json_object

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""llama.cpp's types of tokens: of text, special, added without being special, and without a text."""

_HINT = "convert the merged folder of `tailora merge` with llama.cpp's own program"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES = ("ByteLevel", False, True)
_SPLIT_BYTES = ("ByteLevel", False, False)
_RULES: Mapping[tuple[tuple[Any, ...], ...], str] = {
    (_BYTES,): "gpt-2",
    (("Digits", True), _BYTES): "smollm",
    (("Split", _WORDS + r"\p{N}" + _REST, "Isolated", False), _SPLIT_BYTES): "qwen2",
    (("Split", _WORDS + r"\p{N}{1,3}" + _REST, "Isolated", False), _SPLIT_BYTES): "llama-bpe",
}
_MERGES_IGNORED = {"llama-bpe"}  # a word that is a token is that token, whatever its merges would give


@dataclass(frozen=True)
class GgufTokenizer:
    """A byte-level BPE tokenizer.

    Attributes:
        pre: llama.cpp's name of the rule that splits a text into words.
        tokens: the tokens by id, one for each row of the embedding.
        types: the type of each token.
        merges: the pairs that are merged, first one first, as "left right".
    """

    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]


def read_tokenizer(folder: Path, rows: int) -> GgufTokenizer:
    """Read the tokenizer.json of a model's folder.

    Args:
        folder: the folder.
        rows: rows of the model's embedding; those without a token get a placeholder.

    Raises:
        ModelError: there is no tokenizer.json, or llama.cpp has no name for what it does.
    """
    path = folder / "tokenizer.json"
    settings = read_json_object(path, ModelError, hint="save the tokenizer as tokenizer.json", optional=False)
    model = settings.get("model") or {}
    pre = _rule(settings, path)
    vocabulary: dict[str, int] = dict(model["vocab"])
    added = {int(token["id"]): token for token in settings.get("added_tokens") or ()}
    names = {place: token for token, place in vocabulary.items()} | {n: t["content"] for n, t in added.items()}
    if max(names) >= rows:
        what = f"the tokenizer has the token {max(names)}, and the embedding {rows} rows"
        raise ModelError(what, where=path, hint="use the tokenizer of this model")
    types = [NORMAL if place in names else UNUSED for place in range(rows)]
    for place, token in added.items():
        types[place] = CONTROL if token.get("special") else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or ()]
    if not merges:
        raise ModelError("the tokenizer merges nothing, which llama.cpp cannot load", where=path, hint=_HINT)
    return GgufTokenizer(pre, [names.get(place, f"[PAD{place}]") for place in range(rows)], types, merges)


def _rule(settings: Mapping[str, Any], path: Path) -> str:
    model = settings.get("model") or {}
    normalizer = (settings.get("normalizer") or {}).get("type")
    if model.get("type") != "BPE" or model.get("byte_fallback") or model.get("dropout"):
        raise ModelError("the tokenizer is not a byte-level BPE, the only kind written here", where=path, hint=_HINT)
    steps = settings.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", ()) if steps.get("type") == "Sequence" else (steps,)
    rule = _RULES.get(tuple(map(_described, steps)))
    # llama.cpp does not compose characters; texts in composed form, which is the usual one, give the same tokens.
    normalised = normalizer is None or (normalizer == "NFC" and rule == "qwen2")
    if rule is None or not normalised or bool(model.get("ignore_merges")) != (rule in _MERGES_IGNORED):
        what = "llama.cpp has no known name for the rule by which the tokenizer splits texts into words"
        raise ModelError(what, where=path, hint=_HINT)
    return rule


def _described(step: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a step of a pre-tokenizer does, without what concerns only positions in the text."""
    kind = step.get("type")
    if kind == "ByteLevel":
        return kind, bool(step.get("add_prefix_space", True)), bool(step.get("use_regex", True))
    if kind == "Digits":
        return kind, bool(step.get("individual_digits"))
    if kind == "Split":
        return kind, (step.get("pattern") or {}).get("Regex"), step.get("behavior"), bool(step.get("invert"))
    return (kind,)
