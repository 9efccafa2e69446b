"""The tokens of the official scripts: mteval's, WebNLG's and the Penn Treebank's.

`mteval` follows the normalisation of NIST's mteval-v13a. `words` prepares texts as the LoRA paper does for WebNLG and
DART. `treebank` does what the COCO caption scripts do: the Stanford tokenizer 3.4.1 with `-lowerCase`, less a list of
punctuation. It is derived from that program's output. Of 75,348 distinct texts of E2E, WebNLG 2017 and DART, 46 have
other tokens, nearly all because the program reads into the next line.
"""

from __future__ import annotations

import bisect
import re
import string
import unicodedata
from functools import cache, lru_cache

_CACHED = 1 << 15  # texts: metrics share their references, and so do systems
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))  # in mteval's order
_SIGNS = {ord(sign): f" {sign} " for sign in '{|}~[\\]^_`!"#$%&()*+:;<=>?@/'}  # except those below
_SIGNS_AND_LOWER = _SIGNS | {ord(letter): letter.lower() for letter in string.ascii_uppercase}
_SEPARATED = (
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # full stops and commas, unless within a number
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash after a digit
)
_NON_WORD = re.compile(r"(\W)")


@lru_cache(maxsize=_CACHED)
def mteval(text: str) -> tuple[str, ...]:
    """Return tokens as mteval-v13a compares them: A to Z in lower case, all other letters unchanged."""
    return _mteval(text, _SIGNS_AND_LOWER)


@lru_cache(maxsize=_CACHED)
def words(text: str) -> tuple[str, ...]:
    """Return the tokens of a text that is first lower-cased and split at every sign, as the LoRA paper does."""
    return _mteval(" ".join(separate(text)), _SIGNS)


def separate(text: str) -> list[str]:
    """Return the words and the other signs of a text separately, in lower case (microsoft/LoRA, `gpt2_decode.py`)."""
    return " ".join(_NON_WORD.split(text.lower())).split()


# Changes that NLTK's `word_tokenize` makes in such texts.
_NLTK = {'"': ("``",), "cannot": ("can", "not"), "gimme": ("gim", "me"), "gonna": ("gon", "na")}
_NLTK |= {"gotta": ("got", "ta"), "lemme": ("lem", "me"), "wanna": ("wan", "na")}


@lru_cache(maxsize=_CACHED)
def webnlg(text: str) -> tuple[str, ...]:
    """Return tokens as METEOR and TER receive them in WebNLG 2020's script, through NLTK."""
    return tuple(part for token in separate(text) for part in _NLTK.get(token, (token,)))


def _mteval(text: str, table: dict[int, str]) -> tuple[str, ...]:
    text = text.replace("<skipped>", "")
    if "&" in text:
        for entity, sign in _ENTITIES:
            text = text.replace(entity, sign)
    text = f" {text} ".translate(table)
    for pattern, separated in _SEPARATED:
        text = pattern.sub(separated, text)
    return tuple(text.split())


_MARKUP = re.compile(r"&((?i:amp|lt|gt|apos|nbsp)|quot);")
_MARKUP_SIGNS = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " "}
# Code points from and to which the Stanford tokenizer drops every sign that is not a letter; taken from the program.
_DROPPED_RANGES = """
482-482 488-489 58a-58f 604-605 60d-613 61c-61d 65f-65f 66b-66c 7f9-7f9 7fd-819 81b-823 825-827 829-8ff 93a-93b 94f-94f
956-957 970-970 9f2-9fe a51-a51 a70-a76 ae2-ae3 af0-b63 b70-b77 bd7-bd7 bf0-c00 c04-c3c c62-c63 c77-ce3 d00-d3c d4a-d63
d70-df4 e5a-e5b f01-f1f f2a-103e 104a-108f 109a-10fb 135d-17d6 17d8-17dd 17f0-180f 18a9-1945 19da-1a7f 1aa0-1aa6
1aa8-1b44 1b5a-1bad 1be6-1c3f 1c7e-1cf9 1dc0-1dff 1fbf-2012 2024-2025 2027-202e 203c-203d 2043-2043 2045-206f 20a1-20a3
20a5-20ab 20ad-20f0 2150-2152 215f-218b 2ce5-2cff 2d70-2e2e 2e30-2ffb 3003-3004 3007-3011 3013-3030 3036-303a 303d-309c
30a0-30a0 3190-4dff a490-a4c6 a4fe-a4ff a60d-a60f a66f-a67e a69c-a716 a720-a721 a789-a7f4 a802-a8cf a8e0-a8ff a926-a9cd
a9de-aa4d aa5c-aa5f aa77-aac1 aade-aaf1 aaf5-abed fb1e-feff ffe2-ffe4 ffe8-fffd 10000-10ffff
"""
_DROPPED_ENDS = [
    int(number, 16) + place for pair in _DROPPED_RANGES.split() for place, number in enumerate(pair.split("-"))
]


class _Typography(dict[int, str | int]):
    """How the tokenizer reads each character, for `str.translate`: most unchanged, dropped ones as a space."""

    def __missing__(self, code: int) -> str | int:
        dropped = bisect.bisect_right(_DROPPED_ENDS, code) % 2 == 1 and not chr(code).isalpha()
        self[code] = " " if dropped else code
        return self[code]


_WRITTEN_AS = {
    "‘": "`",
    "‛": "`",
    "‹": "`",
    "›": " ' ",
    "“": '"',
    "”": '"',
    "«": '"',
    "»": '"',
    "…": " ... ",
    "\xad": "",
}
_WRITTEN_AS |= {"¢": " cents ", "¼": " 1/4 ", "½": " 1/2 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 "}
_WRITTEN_AS |= dict.fromkeys("–—―", " -- ") | dict.fromkeys("€¤₠", "$")
_TYPOGRAPHY = _Typography({ord(sign): written for sign, written in _WRITTEN_AS.items()})
_WRITTEN = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#"}
_DROPPED = frozenset(["''", "'", "’", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", ";"])
_KEEP_STOP = (
    "adj|adm|adv|al|ala|alex|apr|assn|assoc|atty|attys|aug|ave|bancorp|bhd|blvd|brig|bros|calif|capt|cf|cie|"
    "cmdr|co|col|colo|comdr|conn|corp|cos|cpl|ct|dak|dec|dept|det|dr|drs|ens|esq|est|etc|ext|feb|fla|fri|ft|ga|"
    "gen|gov|govs|hon|inc|ind|intl|jan|jos|jr|jul|jun|kan|ky|lieut|lt|ltd|maj|mar|md|messrs|mfg|mich|minn|mme|"
    "mo|mon|mont|mr|mrs|ms|mt|mtg|neb|nev|nov|oct|okla|pfc|ph|plc|prof|profs|pte|pty|pvt|rd|rep|reps|rev|rt|"
    "sen|sens|sep|sept|seq|sfc|sgt|spc|sq|sr|st|ste|supt|supts|sys|tel|tenn|thu|thurs|tue|tues|univ|va|vs|vt|"
    "wed|wis|wm|wyo"
)
_KEEP_STOP_IF_CAPITAL = "Ark|Az|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"
_KEEP_STOP_BEFORE_DIGIT = "art|ca|fig|no|nos|op|pp|prop"
_SENTENCE_BEGINS = (
    "A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Now|"
    "Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|"
    "Yet|You"
)
_SPLIT_WORDS = "(?i:cannot|gonna|wanna|gotta|gimme|lemme)"


@cache
def _treebank(marks: str) -> re.Pattern[str]:
    """Return a pattern of the kinds of tokens, the first match winning; `marks` are combining signs within words."""
    letter, sign = r"[^\W\d_]", r"[^\W_]"  # a letter; a letter or digit
    if marks:
        letter, sign = f"(?:{letter}|[{marks}])", f"(?:{sign}|[{marks}])"
    word = rf"[\w{marks}]"
    clitic = rf"['’](?:[sSmMdD]|re|ve|ll|RE|VE|LL)(?!{word})"
    negation = rf"[nN]['’][tT](?!{word})"
    part = rf"{sign}+(?:-{letter}+){{0,2}}"
    return re.compile(
        rf"""
      (?!{_SPLIT_WORDS}\s) [a-zA-Z]+(?=\s) |
      <[a-zA-Z/!][^<>\s]*>
    | https?://[^\s<>"|]+[^\s<>"|.,;:!?')] | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ | [@\#][A-Za-z_]\w*
    | (?:[A-Za-z]\.)+[A-Za-z]\.(?!{word})                                              # U.S.
    | [A-Za-z]\.(?!{word})(?!\s+(?:{_SENTENCE_BEGINS})\s)                              # J. Smith
    | (?i:{_KEEP_STOP}|ph\.d)\.(?!{word})
    | (?:{_KEEP_STOP_IF_CAPITAL})\.(?!{word})
    | (?i:{_KEEP_STOP_BEFORE_DIGIT})\.(?=\s*\d)
    | {letter}{sign}*\.(?=[,;:])
    | {sign}+?(?={negation}) | {negation}
    | (?i:can)(?=(?i:not)(?!{word})) | (?i:gon|wan)(?=(?i:na)(?!{word})) | (?i:got)(?=(?i:ta)(?!{word}))
    | (?i:gim|lem)(?=(?i:me)(?!{word})) | ['’][tT](?=(?i:is|was)(?!{word}))
    | ['’](?:em|n['’]?|\d\ds?)(?!{word})
    | {clitic}
    | {part}(?:/{part}){{1,2}}                                                         # 18L/36R
    | {sign}[\w.,{marks}]*(?:-{sign}+)+                                                # family-friendly, 140,000-square
    | (?:[dDoOlL]|[A-HJ-XZn](?=['’]{letter}{letter}))['’]{letter}{sign}*               # O'Donnell
    | {letter}*[aeiouyAEIOUY]['’](?!{clitic[4:]})[aeiouA-Z]{letter}*                   # Ahri'ahn
    | [A-Z]+&[A-Z]+ | [A-Z]{{0,2}}\$
    | [+-]?\d*(?:[.:,]\d+)+ | (?<!\w)[+-]\d+
    | {letter}{word}*(?:[.!?]{letter}{word}*)*                                         # words, and what lacks a space
    | {word}+
    | --+ | \.\.+ | [?!]+ | '' | ``
    | \S
    """,
        re.VERBOSE,
    )


_MARKS = re.compile(r"[^\x00-\u02ff]")
_TYPOGRAPHIC_CLITIC = re.compile(r"(?i:’(?:[smdt]|re|ve|ll)|n’t)")


@cache
def _marks() -> str:
    """Return the combining signs that the tokenizer keeps, as ranges of a character class."""
    kept = [
        code
        for code in range(0x300, 0x10000)
        if unicodedata.category(chr(code)) in ("Mn", "Mc") and _TYPOGRAPHY[code] == code
    ]
    known = set(kept)
    starts = [code for code in kept if code - 1 not in known]
    ends = [code for code in kept if code + 1 not in known]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


@lru_cache(maxsize=_CACHED)
def treebank(text: str) -> tuple[str, ...]:
    """Return lower-cased tokens as ROUGE-L, CIDEr and METEOR compare them in the COCO caption and E2E scripts."""
    if "&" in text:
        text = _MARKUP.sub(lambda match: _MARKUP_SIGNS[match[1].lower()], text)
    text = text.translate(_TYPOGRAPHY)
    plain = not any(unicodedata.category(sign)[0] == "M" for sign in set(_MARKS.findall(text)))
    tokens = []
    for token in _treebank("" if plain else _marks()).findall(text):
        if token in _DROPPED or token[:2] == "..":
            continue
        if "’" in token and _TYPOGRAPHIC_CLITIC.fullmatch(token):
            token = token.replace("’", "'")
        tokens.append(_WRITTEN.get(token, token).lower())
    return tuple(tokens)
