"""The tokenizer of a model's folder as a GGUF describes it. No torch.

llama.cpp has two kinds. Of byte-level BPE it knows the rules that split a text before byte pairs are merged by name.
Of SentencePiece's BPE it knows no merges: it merges any two neighbours whose text is a token, and prefers the token
with the highest score. What neither expresses is refused: it would give other tokens without any error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailora.core.errors import ModelError
from tailora.core.files import read_json_object

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's types of tokens: of text, for unknown text, special, added without being special, without a text, and of
a single byte."""

_HINT = "convert the merged folder of `tailora merge` with llama.cpp's own program"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_WORDS, LLAMA3_WORDS = _WORDS + r"\p{N}" + _REST, _WORDS + r"\p{N}{1,3}" + _REST
"""Patterns of the words of llama.cpp's rules qwen2 and llama-bpe."""
_BYTES = ("ByteLevel", False, True)
_SPLIT_BYTES = ("ByteLevel", False, False)
_RULES: Mapping[tuple[tuple[Any, ...], ...], str] = {
    (_BYTES,): "gpt-2",
    (("Digits", True), _BYTES): "smollm",
    (("Split", QWEN2_WORDS, "Isolated", False), _SPLIT_BYTES): "qwen2",
    (("Split", LLAMA3_WORDS, "Isolated", False), _SPLIT_BYTES): "llama-bpe",
}
_SPACE = "▁"
_TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_NORMALIZERS: tuple[tuple[Any, bool], ...] = (
    (_TO_SPACE, False),
    ({"type": "Sequence", "normalizers": [_TO_SPACE]}, False),
    ({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, _TO_SPACE]}, True),
)
"""Normalizers of SentencePiece vocabularies, and whether they put a space before a text."""
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_MERGES_IGNORED = {"llama-bpe"}  # a word that is a token is that token, whatever its merges would give


@dataclass(frozen=True)
class GgufTokenizer:
    """A tokenizer of either kind.

    Attributes:
        tokens: the tokens by id, one for each row of the embedding.
        types: the type of each token.
        pre: llama.cpp's name of the rule that splits a text into words; None for SentencePiece.
        merges: for byte-level BPE, the pairs that are merged, first one first, as "left right".
        scores: for SentencePiece, the score of each token.
        unknown: for SentencePiece, the id of the token for unknown text.
        spaced: for SentencePiece, whether a space is put before a text.
    """

    tokens: Sequence[str]
    types: Sequence[int]
    pre: str | None = None
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    unknown: int | None = None
    spaced: bool = False


def read_tokenizer(folder: Path, rows: int) -> GgufTokenizer:
    """Read the tokenizer.json of a model's folder.

    Args:
        folder: the folder.
        rows: rows of the model's embedding; those without a token get a placeholder.

    Raises:
        ModelError: there is no tokenizer.json, or llama.cpp cannot do what it describes.
    """
    path = folder / "tokenizer.json"
    settings = read_json_object(path, ModelError, hint="save the tokenizer as tokenizer.json", optional=False)
    model = settings.get("model") or {}
    if model.get("type") != "BPE" or model.get("dropout"):
        what = "the tokenizer is neither a byte-level BPE nor SentencePiece's, the only kinds written here"
        raise ModelError(what, where=path, hint=_HINT)
    added = {int(token["id"]): token for token in settings.get("added_tokens") or ()}
    # Special tokens without a row are in no prompt, or the base could not be loaded.
    unused = {place for place, token in added.items() if place >= rows and token.get("special")}
    added = {place: token for place, token in added.items() if place not in unused}
    names = {place: token for token, place in model["vocab"].items() if place not in unused}
    names |= {place: token["content"] for place, token in added.items()}
    if max(names) >= rows:
        what = f"the tokenizer has the token {max(names)}, and the embedding {rows} rows"
        raise ModelError(what, where=path, hint="use the tokenizer of this model")
    if bare := next((t["content"] for t in added.values() if t.get("lstrip") or t.get("rstrip")), None):
        what = f"the tokenizer drops the spaces beside {bare}, which llama.cpp keeps"
        raise ModelError(what, where=path, hint=_HINT)
    types = [NORMAL if place in names else UNUSED for place in range(rows)]
    for place, token in added.items():
        types[place] = CONTROL if token.get("special") else USER_DEFINED
    tokens = [names.get(place, f"[PAD{place}]") for place in range(rows)]
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges") or ()]
    if not pairs:
        raise ModelError("the tokenizer merges nothing, which llama.cpp cannot load", where=path, hint=_HINT)
    if model.get("byte_fallback"):
        return _sentencepiece(settings, tokens, types, [(left, right) for left, right in pairs], path)
    return GgufTokenizer(tokens, types, pre=_rule(settings, path), merges=[" ".join(pair) for pair in pairs])


def _sentencepiece(
    settings: Mapping[str, Any], tokens: list[str], types: list[int], merges: list[tuple[str, str]], path: Path
) -> GgufTokenizer:
    """Describe a vocabulary of SentencePiece, whose merges have to follow from one score for each token."""
    model, normalizer = settings["model"], settings.get("normalizer")
    steps = settings.get("pre_tokenizer")
    spaced = next((spaced for known, spaced in _NORMALIZERS if normalizer == known), None)
    # Gemma's split at spaces finds none, because the normalizer has replaced them.
    if spaced is None or not (steps is None or (steps.get("type"), steps.get("pattern")) == ("Split", {"String": " "})):
        what = "llama.cpp cannot do what the tokenizer does with spaces before it merges letters"
        raise ModelError(what, where=path, hint=_HINT)
    unknown = model["vocab"].get(model.get("unk_token"))
    if unknown is None or not model["vocab"].keys() >= _BYTE_TOKENS:
        what = "the tokenizer lacks the token for unknown text or that of a byte, which llama.cpp needs"
        raise ModelError(what, where=path, hint=_HINT)
    scores = _scores(model["vocab"].keys() - _BYTE_TOKENS, merges, path)
    types = [BYTE if token in _BYTE_TOKENS else kind for token, kind in zip(tokens, types, strict=True)]
    types[unknown] = UNKNOWN
    lowest = -float(len(merges))
    # A token that was added is looked for before spaces are replaced.
    pairs = zip(tokens, types, strict=True)
    written = [token.replace(_SPACE, " ") if kind == USER_DEFINED else token for token, kind in pairs]
    by_place = [scores.get(token, lowest) for token in tokens]
    return GgufTokenizer(written, types, scores=by_place, unknown=unknown, spaced=spaced)


def _scores(vocabulary: Set[str], merges: list[tuple[str, str]], path: Path) -> dict[str, float]:
    """Return a score for each token that merges give, higher for earlier ones.

    Raises:
        ModelError: llama.cpp would merge other pairs, or in another order.
    """
    scores: dict[str, float] = {}
    before = None
    for left, right in merges:
        token = left + right
        if token != before and token in scores:
            raise _no_score(token, path)
        scores.setdefault(token, -float(len(scores)))
        before = token
    known = set(merges)
    for token in vocabulary:
        for place in range(1, len(token)):
            pair = token[:place], token[place:]
            if pair not in known and pair[0] in vocabulary and pair[1] in vocabulary:
                raise _no_score(token, path)
    return scores


def _no_score(token: str, path: Path) -> ModelError:
    what = f"the tokenizer's merges do not follow from one score for each token, as llama.cpp needs: {token!r}"
    return ModelError(what, where=path, hint=_HINT)


def _rule(settings: Mapping[str, Any], path: Path) -> str:
    model = settings.get("model") or {}
    normalizer = (settings.get("normalizer") or {}).get("type")
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
