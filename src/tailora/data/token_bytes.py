"""The bytes of tokens in byte-level BPE and SentencePiece-style vocabularies."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Byte-level BPE (Radford et al. 2019) writes printable bytes as themselves and the others as letters from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(b): b for b in _PRINTABLE} | {chr(0x100 + n): b for n, b in enumerate(_OTHERS)}
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # SentencePiece's byte fallback


@dataclass(frozen=True)
class TokenBytes:
    """How the tokens of a vocabulary spell text.

    Attributes:
        byte_level: whether each letter of a token is a byte (byte-level BPE).
        space: the letter that represents a space; None for the space itself.
        byte_tokens: whether tokens such as `<0x0A>` are single bytes (byte fallback).
        drops_space: whether decoding removes a space at the beginning of a text.
    """

    byte_level: bool = True
    space: str | None = None
    byte_tokens: bool = False
    drops_space: bool = False

    @classmethod
    def of_decoder(cls, decoder: dict[str, Any] | None) -> TokenBytes:
        """Return the spelling that the `decoder` of a tokenizer.json describes; None means byte-level BPE."""
        parts = list(_flat(decoder, "decoders"))
        kinds = {part["type"] for part in parts}
        if not kinds & {"Replace", "Metaspace", "ByteFallback"}:
            return cls()
        space = None
        for part in parts:
            if part["type"] == "Metaspace":
                space = str(part.get("replacement", "▁"))
            elif part["type"] == "Replace" and part.get("content") == " ":
                space = part["pattern"].get("String")
        strips = any(part["type"] == "Strip" and part.get("content") == " " and part.get("start") for part in parts)
        metaspace = any(part["type"] == "Metaspace" and _prepends(part) for part in parts)
        return cls("ByteLevel" in kinds, space, "ByteFallback" in kinds, strips or metaspace)

    def is_byte(self, token: str) -> bool:
        """Return whether a token is a single byte, as in SentencePiece's byte fallback."""
        return self.byte_tokens and _BYTE_TOKEN.fullmatch(token) is not None

    def of(self, token: str, *, begins: bool = False) -> bytes:
        """Return the bytes of a token that is not special; `begins` says that it is the first of a text."""
        if self.is_byte(token):
            return bytes.fromhex(token[3:5])
        if self.byte_level and all(letter in _BYTES for letter in token):
            return bytes(_BYTES[letter] for letter in token)
        text = token if self.space is None else token.replace(self.space, " ")
        return (text.removeprefix(" ") if begins and self.drops_space else text).encode()


def without_leading_space(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a tokenizer.json, changed so that no space is added before the first word of a text."""
    changed = copy.deepcopy({name: tokenizer.get(name) for name in ("normalizer", "pre_tokenizer")})
    for part in _flat(changed["pre_tokenizer"], "pretokenizers"):
        if part["type"] == "Metaspace":
            part |= {"prepend_scheme": "never"}
            part.pop("add_prefix_space", None)
        elif part["type"] == "ByteLevel":
            part |= {"add_prefix_space": False}
    normalizers = list(_flat(changed["normalizer"], "normalizers"))
    kept = [part for part in normalizers if part["type"] != "Prepend"]
    if len(kept) < len(normalizers):
        changed["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    return {**tokenizer, **changed}


def _prepends(metaspace: dict[str, Any]) -> bool:
    return bool(metaspace.get("add_prefix_space", True)) and metaspace.get("prepend_scheme", "always") != "never"


def _flat(part: dict[str, Any] | None, children: str) -> Iterator[dict[str, Any]]:
    """Yield a component, or the components of a sequence and of the sequences in it."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for child in part[children]:
            yield from _flat(child, children)
    else:
        yield part
