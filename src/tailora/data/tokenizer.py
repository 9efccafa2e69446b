"""Byte-level BPE without torch or transformers, from the files that lie beside a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from tailora.errors import ModelError
from tailora.files import write_json

_USUAL_EOS = ("<|endoftext|>", "</s>", "<|im_end|>", "<|end_of_text|>", "<eos>")

# How byte-level BPE writes bytes (Radford et al. 2019): printable ones as themselves, the others from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(b): b for b in _PRINTABLE} | {chr(0x100 + n): b for n, b in enumerate(_OTHERS)}


class Tokenizer:
    """Text to token ids and back.

    Text is only ever text: a record that contains "<|endoftext|>" gives ordinary tokens, never the special one, and
    nothing is added at either end. `eos_id` is the token with which the model ends what it writes.
    """

    def __init__(self, inner: tokenizers.Tokenizer, eos_token: str, config: dict[str, Any] | None = None) -> None:
        eos_id = inner.token_to_id(eos_token)
        if eos_id is None:
            raise ModelError(f"the tokenizer has no token {eos_token!r}", mend="name its end-of-text token")
        inner.no_truncation()
        inner.no_padding()
        inner.add_special_tokens([AddedToken(eos_token, special=True, normalized=False)])
        inner.encode_special_tokens = True
        self._inner = inner
        self._config = dict(config or {})
        self.eos_token = eos_token
        self.eos_id: int = eos_id

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Load `tokenizer.json`, or `vocab.json` and `merges.txt` (GPT-2's own files), from a model's folder.

        The end-of-text token is the one that config.json names (`eos_token_id`, the first of several), else the one
        in tokenizer_config.json or special_tokens_map.json, else the usual one that the vocabulary has.

        Raises:
            ModelError: files are missing or broken, or no end-of-text token can be told.
        """
        folder = Path(path)
        config = _json(folder / "tokenizer_config.json")
        if (folder / "tokenizer.json").is_file():
            inner = _load(lambda: tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), folder)
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            inner = _load(lambda: _from_merges(folder), folder)
        else:
            raise ModelError(
                "holds no tokenizer", where=folder, mend="put tokenizer.json, or vocab.json and merges.txt, there"
            )
        return cls(inner, _find_eos(inner, folder, config), config)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included; a model's embedding may have more rows."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens as they would stand in a text."""
        added = self._inner.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of `text`, which may hold special tokens if `special`, as a chat template's does.

        With `special` it is not for several threads at once.
        """
        self._inner.encode_special_tokens = not special
        try:
            return self._inner.encode(text, add_special_tokens=False).ids
        finally:
            self._inner.encode_special_tokens = True

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text; faster than one by one."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Return the text of token ids; special tokens are left out unless `special`.

        Bytes that are no UTF-8, as a text cut inside a character ends in, become U+FFFD.
        """
        return self._inner.decode(list(ids), skip_special_tokens=not special)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that one token stands for, a part of a character perhaps; a special token's are its name."""
        text = self._inner.id_to_token(token)
        if text is None:
            return b""
        if text not in self.special_tokens and all(letter in _BYTES for letter in text):
            return bytes(_BYTES[letter] for letter in text)
        return text.encode()

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers' AutoTokenizer reads too."""
        folder = Path(folder)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config, "eos_token": self.eos_token}
        write_json(folder / "tokenizer.json", json.loads(self._inner.to_str()))
        write_json(folder / "tokenizer_config.json", config)


def _from_merges(folder: Path) -> tokenizers.Tokenizer:
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _load(make: Callable[[], tokenizers.Tokenizer], folder: Path) -> tokenizers.Tokenizer:
    try:
        return make()
    except Exception as error:  # `tokenizers` raises bare Exception for anything it cannot read
        raise ModelError(
            f"the tokenizer cannot be read ({error})", where=folder, mend="fetch its files again"
        ) from error


def _find_eos(inner: tokenizers.Tokenizer, folder: Path, config: dict[str, Any]) -> str:
    ids = _json(folder / "config.json").get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    if ids and isinstance(ids[0], int) and (token := inner.id_to_token(ids[0])) is not None:
        return token
    named = config.get("eos_token") or _json(folder / "special_tokens_map.json").get("eos_token")
    token = named.get("content") if isinstance(named, dict) else named
    for candidate in (token, *_USUAL_EOS):
        if isinstance(candidate, str) and inner.token_to_id(candidate) is not None:
            return candidate
    raise ModelError(
        "the tokenizer's end-of-text token cannot be told", where=folder, mend="name it in tokenizer_config.json"
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"broken JSON ({error})", where=path, mend="fetch the file again") from error
    if not isinstance(value, dict):
        raise ModelError("is not a JSON object", where=path, mend="fetch the file again")
    return value
