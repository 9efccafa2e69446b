"""Search a text for a value: as written, in Turkish case, or without accents where that cannot confuse two words."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache

from tailora.metrics.scripts import SPACELESS_LETTERS, is_spaceless
from tailora.metrics.spelling import APOSTROPHES, Span, Spelling, is_mark, one_spelling, spell, without_accents

_GONE = "\x00"  # replaces each letter of a mention; no pattern matches across it
_JOINERS = frozenset("\u17d2\u1039\u0f84\u1a60")  # the letter after them is a part of the one before
_ARTICLES = ("the", "a", "an")
_SHORTEST_FOLDED = 4  # letters: accents distinguish most short words
_NEGATIVE_VALUE = re.compile(
    r"(?:[\W_]*(?:the|an?)\b)?[\W_]*[-\u2212]\s?[\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u2189]",
    re.IGNORECASE,
)
_MINUS_SIGN = re.compile(r"(?:^|[^\d\s]\s+|\()[-\u2212]$")  # not that of a range, such as 3-5 or 3 -5
_MINUS = re.compile(
    r"(?:[-\u2010-\u2013\u2212]|\b(?:minus|moins|menos|âm|минус)|零下|マイナス|영하)\s*$", re.IGNORECASE
)
_LESS = re.compile(
    r"\b(?:below|negative|lost|loss|losing|fell|fall(?:s|en)?|down|drop\w*|declin\w*|decreas\w*|fewer|less)\b",
    re.IGNORECASE,
)
_NEAR = 40  # characters from a number to a word that can stand for its minus sign
_CURRENCIES: tuple[tuple[str, ...], ...] = (
    ("€", "euro", "euros", "eur"),
    ("£", "pound", "pounds", "gbp"),
    ("$", "dollar", "dollars", "usd"),
)
_DATE = re.compile(r"(\d{4}) (\d{2}) (\d{2})")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_ACRONYM = re.compile(r"(?<![^\W_])[A-Z]{2,4}(?![^\W_])")
_LONGEST_UNIT = 3  # letters: km, kWh, am
_AMOUNT = re.compile(r"([£$€])?(\d[\d.]*) ?([£$€]|[a-z]+)?")
_SHORTEST_STEM = 3  # letters before an apostrophe that joins a suffix: not those of d'or


class RulePattern:
    """A pattern of the rules, which matches whole words.

    Args:
        pattern: a regular expression over normalised texts.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = _folded(pattern)
        self.spaced = re.compile(_bounded(self._pattern, spaceless=False))

    @cached_property
    def spaceless(self) -> re.Pattern[str]:
        """The same for texts with letters of scripts without spaces."""
        return re.compile(_bounded(self._pattern, spaceless=True))


class ValueSearch:
    """A normalised text from which mentions are removed, so that none is counted twice.

    Places are start and end in `rest`; `origin` gives the place in the text itself.

    A mention is bounded by characters that are not part of its word. Between letters of scripts without spaces, and
    between those and others, any place is a boundary.

    A value that the text has with other accents counts only under these conditions, which keep apart words such as
    Vietnamese ma, má and mà: one of the two spellings has no accents at all; the value is a name (it has a capital
    letter, or its script has none) of four letters or more; no other known value has exactly that spelling; and
    the text has no accents apart from the words of the record's values and subjects.

    Args:
        text: any.
        own: the values and subjects of the record.
        known: returns further values of the data set, to be distinguished from.
    """

    def __init__(self, text: str, own: Sequence[str] = (), known: Callable[[], Iterable[str]] = tuple) -> None:
        self.text, self._own, self._known = text, own, known
        self._spelling = _spelled(text, False)
        self.rest = self._spelling.text
        self._scripts = any(map(is_spaceless, self.rest)) if not self.rest.isascii() else False

    def take_value(self, value: str) -> list[Span]:
        """Return where the text says a value, and remove those places."""
        places = self.places(value)
        for place in places:
            self._remove(place)
        return sorted(places)

    def take_whole(self, value: str) -> list[Span]:
        """Return where the text says a value with its first article, if it has one, and remove those places."""
        first, _, more = normalise(value).partition(" ")
        places = self.places(value)
        if more and first in _ARTICLES:
            places = [place for place in places if self.rest[: place[0]].endswith(f"{first} ")]
        for place in places:
            self._remove(place)
        return sorted(places)

    def places(self, value: str) -> list[Span]:
        """Return where the text says a value."""
        wanted = normalise(value)
        places = self._literal(wanted, self.rest)
        for form in (*_forms_of_amount(wanted), *_forms_of_date(wanted), *_spaced_capitals(value)):
            if others := self._literal(form, self.rest):
                taken = {at for place in places for at in range(*place)}
                places += [place for place in others if taken.isdisjoint(range(*place))]
        if self._is_turkic(value):
            rest = "".join(
                letter if here != _GONE else _GONE for letter, here in zip(self._turkic, self.rest, strict=True)
            )
            places += [place for place in self._literal(_spelled(value, True).text, rest) if place not in places]
        if not (self.rest.isascii() and wanted.isascii()) and self._may_lose_accents(value, wanted):
            places += [place for place in self._without_accents(wanted) if not _overlaps(place, places)]
        return [place for place in places if self._has_its_sign(value, place)]

    def _has_its_sign(self, value: str, place: Span) -> bool:
        """Whether a number in the text has the sign of the value: 5 does not say -5, nor the other way around."""
        origin = self.origin(place)
        if origin is None or not self.rest[place[0]].isdigit():
            return True
        before = self.text[max(origin[0] - _NEAR, 0) : origin[0]]
        if is_negative(value):
            near = f"{before} {self.text[origin[1] : origin[1] + _NEAR]}"
            return _MINUS.search(before) is not None or _LESS.search(near) is not None
        return _MINUS_SIGN.search(before) is None

    def take_rule(self, pattern: RulePattern) -> list[Span]:
        """Return where a pattern of the rules matches, and remove those places."""
        places = self._matches(pattern)
        for place in places:
            self._remove(place)
        return places

    def find_rule(self, pattern: RulePattern) -> list[Span]:
        """Return where a pattern of the rules matches the whole text, with what was removed from it."""
        return self._matches(pattern, self._spelling.text)

    def has_rule(self, pattern: RulePattern) -> bool:
        """Whether a pattern of the rules matches."""
        return bool(self._matches(pattern))

    def _matches(self, pattern: RulePattern, text: str | None = None) -> list[Span]:
        text = self.rest if text is None else text
        compiled = pattern.spaceless if self._scripts else pattern.spaced
        matches = (match.span() for match in compiled.finditer(text))
        return [place for place in matches if not _cuts_letter(text, place)]

    def origin(self, place: Span) -> Span | None:
        """Return a place's position in the text itself; None for an empty one."""
        kept = [origin for origin in self._spelling.places[place[0] : place[1]] if origin is not None]
        return (kept[0][0], kept[-1][1]) if kept else None

    def _remove(self, place: Span) -> None:
        start, end = place
        self.rest = self.rest[:start] + _GONE * (end - start) + self.rest[end:]

    def _literal(self, wanted: str, rest: str) -> list[Span]:
        pattern = _literal(wanted, self._scripts)
        if pattern is None:
            return []
        places = [match.span() for match in pattern.finditer(rest)]
        if wanted.isdigit() or len(wanted) >= _SHORTEST_STEM:
            before = (match.span() for end in self._stem_ends for match in pattern.finditer(rest[:end]))
            places += [place for place in before if place[1] in self._stem_ends and place not in places]
        return [place for place in places if not _cuts_letter(rest, place) and not _cuts_number(rest, place)]

    @cached_property
    def _stem_ends(self) -> list[int]:
        """Where words are joined to a suffix by an apostrophe, as in Turkish Ankara'da."""
        places, text = self._spelling.places, self.text
        ends = []
        for number, (before, after) in enumerate(itertools.pairwise(places), start=1):
            if before is None or after is None or after[0] != before[1] + 1:
                continue
            if text[before[1]] in APOSTROPHES and text[after[0]].islower():
                ends.append(number)
        return ends

    def _is_turkic(self, value: str) -> bool:
        """Whether text or value has letters of Turkic alphabets, and folding case their way makes a difference."""
        both = self.text + value
        return ("ı" in both or "İ" in both) and ("I" in both or "İ" in both)

    @cached_property
    def _turkic(self) -> str:
        return _spelled(self.text, True).text

    def _may_lose_accents(self, value: str, wanted: str) -> bool:
        letters = sum(map(str.isalpha, without_accents(wanted)[0]))
        return letters >= _SHORTEST_FOLDED and (any(map(str.isupper, value)) or value.lower() == value.upper())

    def _without_accents(self, wanted: str) -> list[Span]:
        """Return where the text has the value with other accents, under the conditions above."""
        plain = without_accents(wanted)[0]
        rest, places = without_accents(self.rest)
        matches = [
            (places[start], _with_marks(self.rest, places[end - 1] + 1)) for start, end in self._literal(plain, rest)
        ]
        differing = [place for place in matches if _differs(self.rest[slice(*place)], wanted)]
        if not differing or self._writes_accents:
            return []
        others = {normalise(value) for value in (*self._own, *self._known())} - {wanted}
        kept = []
        for place in differing:
            spelling = self.rest[slice(*place)]
            if spelling not in others and (wanted == plain or without_accents(spelling)[0] == spelling):
                kept.append(place)
        return kept

    @cached_property
    def _writes_accents(self) -> bool:
        """Whether any word of the text has an accent, other than the words of the record's values and subjects."""
        names = {word for value in self._own for word in without_accents(normalise(value))[0].split()}
        words = self._spelling.text.split()
        plain = (without_accents(word)[0] for word in words)
        return any(word != folded and folded not in names for word, folded in zip(words, plain, strict=True))


def normalise(text: str) -> str:
    """Return the text of `spelling.spell`."""
    return _spelled(text, False).text


def words_of(value: str) -> list[str]:
    """Return the words of a normalised value by which it is searched: without punctuation and its first article."""
    words = [word for word in value.split() if word not in (",", ".")]
    return words[1:] if len(words) > 1 and words[0] in _ARTICLES else words


def is_negative(value: str) -> bool:
    """Whether a value is a number, or begins with one, that has a minus sign."""
    return _NEGATIVE_VALUE.match(value) is not None


@lru_cache(maxsize=1 << 13)
def _forms_of_amount(value: str) -> tuple[str, ...]:
    """Return the other ways to write a normalised amount of money or of a unit: €20, 20 €, 20 euros; 5 km, 5km."""
    match = _AMOUNT.fullmatch(value)
    if match is None or (match[1] is None) == (match[3] is None):
        return ()
    names: tuple[str, ...] = next((own for own in _CURRENCIES if (match[1] or match[3]) in own), ())
    after = [f"{match[2]} {name}" for name in names]
    forms = [f"{names[0]}{match[2]}", f"{match[2]}{names[0]}", *after] if names else []
    if match[1] is None and not names and len(match[3]) <= _LONGEST_UNIT:
        forms = [f"{match[2]} {match[3]}", f"{match[2]}{match[3]}"]
    return tuple(form for form in forms if form != value)


@lru_cache(maxsize=1 << 13)
def _forms_of_date(value: str) -> tuple[str, ...]:
    """Return other ways to write a normalised date, 1983-10-03: 3 October 1983, Oct. 3rd, 1983, 03/10/1983."""
    match = _DATE.fullmatch(value)
    if match is None or not (1 <= int(match[2]) <= len(_MONTHS) and 1 <= int(match[3]) <= 31):
        return ()
    year, month, day = match[1], int(match[2]), int(match[3])
    ending = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    forms = [
        form
        for name in (_MONTHS[month - 1], _MONTHS[month - 1][:3])
        for number in (f"{day}", f"{day:02}", f"{day}{ending}")
        for form in (f"{number} {name} {year}", f"{number} of {name} {year}", f"{name} {number} {year}")
    ]
    pairs = [(f"{day}", f"{month}"), (f"{day:02}", f"{month:02}")]
    numbers = [sign.join((*pair, year)) for own in pairs for pair in (own, own[::-1]) for sign in "/."]
    return (*forms, *numbers)


@lru_cache(maxsize=1 << 13)
def _spaced_capitals(value: str) -> tuple[str, ...]:
    """Return a value with spaces in its acronyms, as in texts that write US as U.S.; none if it has no acronym."""
    spaced = _ACRONYM.sub(lambda match: " ".join(match[0]), value)
    return (normalise(spaced),) if spaced != value else ()


@lru_cache(maxsize=1 << 11)  # about ten kilobytes for a long text
def _spelled(text: str, turkic: bool) -> Spelling:
    return spell(text, turkic=turkic)


def _folded(pattern: str) -> str:
    """Return a pattern with its letters beyond ASCII as in normalised texts."""
    composed = unicodedata.normalize("NFC", pattern)
    folded = (letter if letter.isascii() else unicodedata.normalize("NFC", letter.casefold()) for letter in composed)
    return one_spelling("".join(folded))


def _bounded(pattern: str, *, spaceless: bool) -> str:
    """Return a regular expression for whole words and, if `spaceless`, for parts of runs in scripts without spaces."""
    if not spaceless:
        return rf"(?:(?<![\w£])|(?<=[^\W\d_])(?=£))(?:{pattern})(?!\w)"  # a space before £ is often left out
    here, before = f"(?=[{SPACELESS_LETTERS}])", f"(?<=[{SPACELESS_LETTERS}])"
    return rf"(?:(?<![\w£])|{before}|{here})(?:{pattern})(?:(?!\w)|{before}|{here})"


@lru_cache(maxsize=1 << 13)
def _literal(value: str, spaceless: bool) -> re.Pattern[str] | None:
    """Return a pattern for a normalised value, with any commas and full stops, with or without its first article."""
    words = words_of(value)
    if not words:
        return None
    pattern = re.escape(words[0])
    for before, word in itertools.pairwise(words):
        initials = len(before) == len(word) == 1 and before.isalpha() and word.isalpha()  # U.S. as US
        optional = initials or is_spaceless(before[-1]) or is_spaceless(word[0])
        pattern += (r"[\s.,]*" if optional else r"[\s.,]+") + re.escape(word)
    if len(words[-1]) >= _SHORTEST_FOLDED and words[-1].isascii() and words[-1].isalpha():
        pattern += "s?"  # a possessive, whose apostrophe is gone
    # Unlike for the rules, a sign may precede it: £20 says the value 20.
    return re.compile(_bounded(pattern, spaceless=spaceless).replace(r"(?<![\w£])", r"(?<!\w)"))


def _overlaps(place: Span, others: Iterable[Span]) -> bool:
    return any(place[0] < end and start < place[1] for start, end in others)


def _differs(spelling: str, wanted: str) -> bool:
    """Whether the words are written differently, apart from punctuation between them and the first article."""
    words, others = ([word for word in text.split() if word not in (",", ".")] for text in (spelling, wanted))
    return words != others[len(others) - len(words) :]


def _with_marks(rest: str, end: int) -> int:
    while end < len(rest) and is_mark(rest[end]):
        end += 1
    return end


def _cuts_letter(rest: str, place: Span) -> bool:
    """Whether a mark follows, or the first letter is written below the one before."""
    start, end = place
    return (end < len(rest) and is_mark(rest[end])) or (start > 0 and rest[start - 1] in _JOINERS)


def _cuts_number(rest: str, place: Span) -> bool:
    """Whether a decimal point joins the mention to further digits: 4.5 does not say 5."""
    start, end = place
    before = start > 1 and rest[start].isdigit() and rest[start - 1] == "." and rest[start - 2].isdigit()
    after = rest[end - 1].isdigit() and rest[end : end + 1] == "." and rest[end + 1 : end + 2].isdigit()
    return before or after
