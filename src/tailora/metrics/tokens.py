"""Texts as the field's scripts cut them into tokens: mteval's way and the Penn Treebank's.

`mteval` follows the normalisation of NIST's mteval-v13a, `treebank` what the COCO caption scripts do: the Stanford
tokenizer 3.4.1 with `-lowerCase`, and a list of punctuation dropped from what it gives. The second was made by asking
that program; over 81,098 texts of E2E, WebNLG 2017 and DART the two differ on 56, mostly since the program looks on
into the next line, and on Indic vowel signs.
"""

from __future__ import annotations

import re
from functools import lru_cache

_CACHED = 1 << 15  # texts: metrics share their references, and so do systems
_ENTITIES = (("&quot;", '"'), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))
_MTEVAL_SIGNS = {ord(sign): f" {sign} " for sign in '{|}~[\\]^_`!"#$%&()*+:;<=>?@/'}  # but for those of the next ones
_MTEVAL = (
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # full stops and commas, unless within a number
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash after a digit
)


@lru_cache(maxsize=_CACHED)
def mteval(text: str) -> tuple[str, ...]:
    """Tokens as mteval-v13a compares them, in lower case."""
    for entity, meant in _ENTITIES:
        text = text.replace(entity, meant)
    text = f" {text.lower()} ".translate(_MTEVAL_SIGNS)
    for pattern, parted in _MTEVAL:
        text = pattern.sub(parted, text)
    return tuple(text.split())


_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "`", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": " ... ", "€": "$"})
_WRITTEN = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#"}
_DROPPED = frozenset(["''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", ";"])
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
_L, _W = r"[^\W\d_]", r"[^\W_]"  # a letter; a letter or digit
_CLITIC = r"'(?:[sSmMdD]|re|ve|ll|RE|VE|LL)(?!\w)"
_NOT = r"[nN]'[tT](?!\w)"
_PART = rf"{_W}+(?:-{_L}+){{0,2}}"
_PARTED = "[cC]annot|[gG]onna|[wW]anna|[gG]otta|[gG]imme|[lL]emme"
# What comes first goes first; each line is a kind of token, the first one there for speed.
_TREEBANK = re.compile(
    rf"""
      (?!(?:{_PARTED})\s) [a-zA-Z]+(?=\s) |
      <[a-zA-Z/!][^<>\s]*>
    | https?://[^\s<>"|]+[^\s<>"|.,;:!?')] | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ | @[A-Za-z_]\w*
    | (?:{_L}\.)+{_L}\.(?!\w)                                                     # U.S.
    | {_L}\.(?!\w)(?!\s+(?:{_SENTENCE_BEGINS})\s)                                # J. Smith
    | (?i:{_KEEP_STOP})\.(?!\w)
    | (?:{_KEEP_STOP_IF_CAPITAL})\.(?!\w)
    | (?i:{_KEEP_STOP_BEFORE_DIGIT})\.(?=\s*\d)
    | {_L}{_W}*\.(?=[,;:])
    | {_W}+?(?={_NOT}) | {_NOT}
    | [cC]an(?=not(?!\w)) | [gG]on(?=na(?!\w)) | [wW]an(?=na(?!\w)) | [gG]ot(?=ta(?!\w)) | [gG]im(?=me(?!\w))
    | [lL]em(?=me(?!\w)) | '[tT](?=(?:is|was)(?!\w))
    | '(?:em|n'?)(?!\w)
    | {_CLITIC}
    | {_PART}(?:/{_PART}){{1,2}}                                                   # 18L/36R
    | {_W}[\w.,]*(?:-{_W}+)+                                                      # family-friendly, 140,000-square
    | (?:[dDoOlL]|[A-HJ-XZn](?='{_L}{_L}))'{_L}{_W}*                               # O'Donnell
    | {_L}*[aeiouyAEIOUY]'(?!{_CLITIC[1:]})[aeiouA-Z]{_L}*                        # Ahri'ahn
    | [A-Z]+&[A-Z]+ | [A-Z]{{0,2}}\$
    | [+-]?\d*(?:[.:,]\d+)+ | (?<!\w)[+-]\d+
    | {_L}\w*(?:[.!?]{_L}\w*)*                                                    # words, and what lacks a space
    | \w+
    | --+ | \.\.+ | [?!]+ | '' | ``
    | \S
    """,
    re.VERBOSE,
)


@lru_cache(maxsize=_CACHED)
def treebank(text: str) -> tuple[str, ...]:
    """Tokens as ROUGE-L, CIDEr and METEOR compare them in the COCO caption and E2E scripts, in lower case."""
    for entity, meant in _ENTITIES:
        text = text.replace(entity, meant)
    found = _TREEBANK.findall(text.translate(_TYPOGRAPHY))
    kept = [token for token in found if token not in _DROPPED and token[:2] != ".."]
    return tuple([_WRITTEN.get(token, token).lower() for token in kept])
