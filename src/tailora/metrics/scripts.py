"""Writing systems: letters of scripts without spaces between words, and the language of a text by its script."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3400-\u4dbf"
_HAN += "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001b000-\U0001b16f"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7ff\uffa0-\uffdc"
_RANGES = {
    "Han": _HAN,
    "kana": _KANA,
    "Hangul": _HANGUL,
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Tibetan": "\u0f00-\u0fff",
    "Myanmar": "\u1000-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f",
    "Khmer": "\u1780-\u17ff\u19e0-\u19ff",
}
_UNITS = re.compile("|".join(f"(?P<{name}>[{ranges}])" for name, ranges in _RANGES.items()) + r"|(?P<spaced>[^\W\d_])")
SPACELESS_LETTERS = "".join(_RANGES.values())
"""Letters of scripts without spaces between words, as the ranges of a character class."""
_SPACELESS = re.compile(f"[{SPACELESS_LETTERS}]")
_LANGUAGES = {"Han": "zh", "kana": "ja", "Hangul": "ko", "Thai": "th", "Lao": "lo", "Tibetan": "bo", "Myanmar": "my"}
_LANGUAGES |= {"Khmer": "km"}


def is_spaceless(letter: str) -> bool:
    """Whether a letter's script has no spaces between words; Korean counts, because particles follow words directly."""
    return letter > "\u0dff" and _SPACELESS.match(letter) is not None


def language_of(text: str) -> str | None:
    """Return the language (zh, ja, ko, th, lo, bo, my or km) of a text without spaces between words, otherwise None.

    Each such letter counts as one word, and so does each word of any other script: "iPhone 是手机" is Chinese. A tenth
    of kana among the Chinese characters makes it Japanese.
    """
    counts: Counter[str] = Counter()
    before = ("", -1)
    for match in _UNITS.finditer(text):
        kind = str(match.lastgroup)
        if kind != "spaced" or before != (kind, match.start()):
            counts[kind] += 1
        before = (kind, match.end())
    spaced = counts.pop("spaced", 0)
    if counts.total() <= spaced:
        return None
    if counts["kana"] * 10 >= counts["kana"] + counts["Han"] > 0 and counts["kana"] + counts["Han"] >= counts["Hangul"]:
        return "ja"
    return _LANGUAGES[counts.most_common(1)[0][0]]


def languages_of(texts: Iterable[str]) -> Counter[str | None]:
    """Count the texts in each language of `language_of`; texts without letters are not counted."""
    return Counter(language_of(text) for text in texts if _UNITS.search(text))
