"""Normalised spelling: one case, one form of each letter, words and clauses separated by spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

Span = tuple[int, int]
"""Start and end of some characters in a text."""

_SIGNS = "£$€+/%&"  # kept as parts of words
APOSTROPHES = frozenset("'’`´ʼ‘‛")
"""Signs that are left out of words."""
_STOPS = frozenset("!?。।॥።۔؟။។᙮")
_COMMAS = frozenset(";:(),、،؛၊፣")
_THOUSANDS = re.compile(r"\d{3}(?!\w)")
_DOTTED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3})+(?![.,]?\d)")  # 1.000, as German and Vietnamese have it
_SPACED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:[\u00a0\u2007\u2009\u202f]\d{3})+(?!\d)")  # 1 000, unbroken
_DECIMAL = re.compile(r"(?<![\d.,])(\d+|[1-9]\d{0,2}(?:\.\d{3})+|[1-9]\d{0,2}(?:,\d{3})+)([.,])(\d+)(?![.,]?\d)")
_INVISIBLE = frozenset("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff")
_TONES = {
    plain + tone + vowel: plain + vowel + tone
    for plain, vowels in (("o", "ae"), ("u", "y"))
    for vowel in vowels
    for tone in "\u0300\u0301\u0303\u0309\u0323"
}
_TONES = {unicodedata.normalize("NFC", old): unicodedata.normalize("NFC", new) for old, new in _TONES.items()}
_TONED = re.compile("|".join(_TONES))  # Vietnamese places a tone mark in two ways: hòa and hoà


class Spelling(NamedTuple):
    """A normalised text.

    Attributes:
        text: case folded and in Unicode's form NFKC, without apostrophes; hyphens and other signs are spaces, clauses
            and sentences end in " , " and " . ".
        places: where each of its characters comes from in the original; None for spaces and punctuation.
    """

    text: str
    places: list[Span | None]


def spell(text: str, *, turkic: bool = False) -> Spelling:
    """Normalise a text: "It isn't family - friendly; £ 20-25." becomes "it isnt family friendly , £20 25 .".

    Case is folded by Unicode's full case folding (ß as ss, both forms of σ, İ as i), compatibility characters become
    what they stand for (full-width letters, ligatures, fractions), and accents stay. Separators of thousands are left
    out: 1,000 and 1.000 are 1000, and so is 1 000 with a space that does not break. A decimal comma is a point, and
    zeros at the end of decimals are left out: 4,50 is 4.5. "50 %" is "50%", and a lone & is "and".

    Args:
        text: any.
        turkic: fold I to ı and İ to i, as in Turkish and Azerbaijani. The length stays the same.
    """
    letters: list[str] = []
    origins: list[Span] = []
    spaces = {place for match in _SPACED.finditer(text) for place in range(*match.span()) if text[place].isspace()}
    for start, end in _clusters(text):
        if start in spaces:
            continue
        for letter in _normal(text[start:end], turkic):
            letters.append(letter)
            origins.append((start, end))
    joined = one_spelling("".join(letters))
    numbers = _numbers(joined)
    written: list[str] = []
    places: list[Span | None] = []

    def separate(sign: str) -> None:
        for character in f" {sign} " if sign else " ":
            if character != " " or (written and written[-1] != " "):
                written.append(character)
                places.append(None)

    for place, letter in enumerate(joined):
        following = joined[place + 1 : place + 2]
        if numbers.get(place) == "":
            continue
        if numbers.get(place) == "." or (letter == "." and following.isdigit()):
            written.append(".")
            places.append(None)
        elif letter == "," and joined[place - 1 : place].isdigit() and _THOUSANDS.match(joined, place + 1):
            continue
        elif letter == "." or letter in _STOPS:
            separate(".")
        elif letter in _COMMAS:
            separate(",")
        elif letter == "&" and written[-1:] in ([], [" "]) and not (following and is_word(following)):
            written.extend("and")
            places.extend([None] * 3)
        elif is_word(letter):
            of_money = letter.isdigit() and written[-2:-1] in (["£"], ["$"], ["€"])
            of_percent = letter == "%" and "".join(written[-2:-1]).isdigit()
            if (of_money or of_percent) and written[-1:] == [" "]:
                written.pop()
                places.pop()
            written.append(letter)
            places.append(origins[place])
        else:
            separate("")
    if written[-1:] == [" "]:
        written.pop()
        places.pop()
    return Spelling("".join(written), places)


def _numbers(text: str) -> dict[int, str]:
    """Return what becomes of separators and zeros in the numbers of a text: "" for those that are left out."""
    written = {place: "" for match in _DOTTED.finditer(text) for place in range(*match.span()) if text[place] == "."}
    for match in _DECIMAL.finditer(text):
        whole, sign, fraction = match.groups()
        if sign in whole or match.start(2) in written or (sign == "," and not _is_decimal(whole, fraction)):
            continue
        written |= {place: "" for place in range(*match.span(1)) if text[place] == "." and sign == ","}
        kept = fraction.rstrip("0")
        written |= dict.fromkeys(range(match.start(3) + len(kept), match.end(3)), "")
        written[match.start(2)] = "." if kept else ""
    return written


def _is_decimal(whole: str, fraction: str) -> bool:
    """Whether a comma separates decimals: not thousands (1,000), and not two years (1999,2000)."""
    if whole == "0" or "." in whole:
        return True
    return len(fraction) < 3 or (len(fraction) > 3 and len(whole) <= 3)


def one_spelling(text: str) -> str:
    """Return a text in lower case and NFC with one spelling where languages have two; its length stays the same.

    Digits of every script become ASCII, ё becomes е, and a tone mark of Vietnamese oa, oe and uy is on the last vowel.
    """
    if text.isascii():
        return text
    digits = {ord(letter): str(unicodedata.decimal(letter)) for letter in set(text) if letter.isdecimal()}
    return _TONED.sub(lambda match: _TONES[match[0]], text.translate(digits | {ord("ё"): "е"}))


def is_word(letter: str) -> bool:
    """Whether a normalised character belongs to a word: a letter, a digit, a mark on a letter, or a sign such as £."""
    return letter.isalnum() or letter in _SIGNS or is_mark(letter)


@lru_cache(maxsize=1 << 12)
def is_mark(letter: str) -> bool:
    """Whether a character is written on or around the one before it (Unicode's category M)."""
    return letter >= "\u0300" and unicodedata.category(letter)[0] == "M"


def without_accents(text: str) -> tuple[str, list[int]]:
    """Return a normalised text without accents, and the place of each of its characters in that text.

    Accents are the diacritics of Latin, Greek and Cyrillic letters (but й is a letter), and the vowel points of Hebrew
    and Arabic. Vowel signs and tone marks of other scripts are letters.
    """
    folded: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        for part in _plain(letter):
            folded.append(part)
            places.append(place)
    return "".join(folded), places


def _clusters(text: str) -> Iterator[Span]:
    """Characters with the marks that follow them."""
    start = 0
    for place in range(1, len(text)):
        if not _continues(text[place]):
            yield start, place
            start = place
    if text:
        yield start, len(text)


@lru_cache(maxsize=1 << 12)
def _continues(letter: str) -> bool:
    """Whether a character can change the form of the one before: marks, later parts of Korean syllables, kana marks."""
    return is_mark(letter) or "\u1160" <= letter <= "\u11ff" or letter in "\uff9e\uff9f"


@lru_cache(maxsize=1 << 14)
def _normal(cluster: str, turkic: bool) -> str:
    """Of one character with its marks: NFKC, case folded, NFKC again (Unicode Standard, section 3.13, D146)."""
    if cluster in APOSTROPHES or cluster in _INVISIBLE:
        return ""
    fraction = unicodedata.category(cluster[0]) == "No"
    folded = unicodedata.normalize("NFKC", cluster)
    if turkic:
        folded = folded.replace("I", "ı")
    folded = folded.replace("İ", "i")  # before its dot can be separated from it by a mark
    folded = unicodedata.normalize("NFKC", folded.casefold()).replace("i\u0307", "i").replace("'", "")
    return " " + folded.replace("\u2044", "/") if fraction and "\u2044" in folded else folded


@lru_cache(maxsize=1 << 12)
def _plain(letter: str) -> str:
    if letter < "\u00c0" or letter == "й":
        return letter
    parts = unicodedata.normalize("NFD", letter)
    return unicodedata.normalize("NFC", "".join(part for part in parts if not _is_accent(part)))


def _is_accent(part: str) -> bool:
    if "\u0300" <= part <= "\u036f":
        return True
    return ("\u0591" <= part <= "\u05c7" or "\u064b" <= part <= "\u0652" or part == "\u0670") and is_mark(part)
