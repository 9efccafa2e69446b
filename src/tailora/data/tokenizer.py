"""Text to token ids and back without torch or transformers, from the files of a model folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from tailora.core.errors import DataError, ModelError
from tailora.core.files import write_json
from tailora.data.model_files import (
    ADDED_TOKENS,
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    read_model_file,
    special_token,
)
from tailora.data.token_bytes import TokenBytes, without_leading_space

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_USUAL_EOS = ("<|endoftext|>", "</s>", "<|im_end|>", "<|end_of_text|>", "<eos>")


class Tokenizer:
    """Converts text to token ids and back.

    Text never becomes a special token unless that is requested: a record that contains "<|endoftext|>" gives ordinary
    tokens. Nothing is added at either end. Every method may be called from any thread.

    Args:
        inner: the tokenizer of the `tokenizers` library.
        eos_token: the token that training puts at the end of a text.
        config: content of tokenizer_config.json.
        end_ids: ids of the tokens that end a generated text; by default only that of `eos_token`.
        first_end_id: the first end-of-text token in config.json, which adapters that do not name their end-of-text
            token were trained with; by default that of `eos_token`.

    Attributes:
        eos_token: the token that training puts at the end of a text.
        eos_id: id of `eos_token`.
        end_ids: ids of all tokens that end a generated text, including `eos_id`.
        first_end_id: see above.
        bos_ids: ids of the tokens that the tokenizer's post-processor puts before a text; often none.

    Raises:
        ModelError: the tokenizer has no token `eos_token`.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        eos_token: str,
        config: dict[str, Any] | None = None,
        *,
        end_ids: Iterable[int] = (),
        first_end_id: int | None = None,
    ) -> None:
        eos_id = inner.token_to_id(eos_token)
        if eos_id is None:
            raise ModelError(f"the tokenizer has no token {eos_token!r}", hint="name its end-of-text token")
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        # An ordinary token that ends texts, such as a full stop, stays a part of them.
        ordinary = inner.encode(eos_token, add_special_tokens=False).ids == [eos_id]
        if not ordinary or eos_id in inner.get_added_tokens_decoder():
            inner.add_special_tokens([AddedToken(eos_token, special=True, normalized=False)])
        self._inner = inner
        self._config = dict(config or {})
        self.eos_token = eos_token
        self.eos_id: int = eos_id
        self.end_ids = frozenset((eos_id, *end_ids))
        self.first_end_id = eos_id if first_end_id is None else first_end_id
        self.bos_ids = _bos_ids(inner)

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Load `tokenizer.json`, or `vocab.json` and `merges.txt` (GPT-2's own files), from a model's folder.

        As in transformers, every `eos_token_id` of generation_config.json, else of config.json, ends a text. Training
        uses the tokenizer's own end-of-text token if it is one of them, else the first of them. If there is none, it
        uses the token in tokenizer_config.json or special_tokens_map.json, else a usual one that is in the vocabulary.

        Raises:
            ModelError: files are missing or broken, or the end-of-text token is unknown.
        """
        folder = Path(path)
        config = read_model_file(folder, TOKENIZER_CONFIG)
        if (folder / "tokenizer.json").is_file():
            inner = _load(lambda: tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), folder)
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            inner = _load(lambda: _from_merges(folder, config), folder)
        else:
            raise ModelError(
                "contains no tokenizer", where=folder, hint="put tokenizer.json, or vocab.json and merges.txt, there"
            )
        ends = _end_ids(read_model_file(folder, CONFIG), inner)
        end_ids = _end_ids(read_model_file(folder, GENERATION_CONFIG), inner) or ends
        named = special_token(folder, "eos_token")
        first = ends[0] if ends else None
        return cls(inner, _eos_token(inner, end_ids, named, folder), config, end_ids=end_ids, first_end_id=first)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included; a model's embedding may have more rows."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def tokens_from(self, first: int) -> dict[int, str]:
        """Return the tokens with this id or a larger one, by their ids."""
        return {token_id: token for token, token_id in self._inner.get_vocab().items() if token_id >= first}

    @cached_property
    def vocabulary_fingerprint(self) -> str:
        """SHA-256 of the tokens with their ids."""
        return hashlib.sha256(json.dumps(sorted(self._inner.get_vocab().items())).encode()).hexdigest()

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens as text."""
        added = self._inner.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of the special tokens, which `decode` leaves out."""
        added = self._inner.get_added_tokens_decoder().items()
        return frozenset(token_id for token_id, token in added if token.special)

    def encode(self, text: str, *, special: bool = False, continues: bool = False) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: the text to encode.
            special: recognise special tokens in the text, for example in the output of a chat template.
            continues: the text follows another one, so that no space is added before its first word.

        Raises:
            DataError: the text contains half of a surrogate pair.
        """
        if special:
            inner = self._continuing_special if continues else self._special
        else:
            inner = self._continuing if continues else self._inner
        try:
            return inner.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise _encoding_error([text], error) from error

    def encode_batch(self, texts: Sequence[str], *, continues: bool = False) -> list[list[int]]:
        """Return the token ids of each text, see `encode`; faster than one by one."""
        inner = self._continuing if continues else self._inner
        try:
            return [encoding.ids for encoding in inner.encode_batch_fast(list(texts), add_special_tokens=False)]
        except TypeError as error:
            raise _encoding_error(texts, error) from error

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Return the text of token ids; special tokens are left out unless `special` is set.

        Bytes that are not valid UTF-8 become U+FFFD, for example where a text ends inside a character.
        """
        return self._inner.decode(list(ids), skip_special_tokens=not special)

    def decode_written(self, ids: Iterable[int]) -> str:
        """Return the text of token ids that follow a prompt, without special tokens.

        SentencePiece-style tokenizers drop a space at the beginning of a text. Here it is kept, since it separates
        the last word of the prompt from the first generated word.
        """
        if not self._bytes.drops_space:
            return self.decode(ids)
        return self.decode([*self._anchor, *ids])[len(self.decode(self._anchor)) :]

    def token_bytes(self, token: int, *, begins: bool = False) -> bytes:
        """Return the bytes of a token, which may be part of a character; those of a special token spell its name.

        Args:
            token: id of the token.
            begins: the token is the first of a text, where some tokenizers drop a space.
        """
        text = self._inner.id_to_token(token)
        if text is None:
            return b""
        if token in self.special_ids:
            return text.encode()
        return self._bytes.of(text, begins=begins)

    def is_byte(self, token: int) -> bool:
        """Return whether a token is a single byte (SentencePiece), whose text depends on the neighbouring bytes."""
        text = self._inner.id_to_token(token) if token >= 0 else None
        return text is not None and self._bytes.is_byte(text)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers' AutoTokenizer reads too."""
        folder = Path(folder)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config, "eos_token": self.eos_token}
        write_json(folder / "tokenizer.json", json.loads(self._inner.to_str()))
        write_json(folder / "tokenizer_config.json", config)

    @cached_property
    def _bytes(self) -> TokenBytes:
        return TokenBytes.of_decoder(json.loads(self._inner.to_str()).get("decoder"))

    @cached_property
    def _anchor(self) -> list[int]:
        """Ids of a text after which generated tokens are decoded."""
        return self.encode("a")

    @cached_property
    def _continuing(self) -> tokenizers.Tokenizer:
        """The tokenizer for texts that follow another text."""
        settings = json.loads(self._inner.to_str())
        changed = without_leading_space(settings)
        if changed == settings:
            return self._inner
        inner = tokenizers.Tokenizer.from_str(json.dumps(changed))
        inner.encode_special_tokens = True
        return inner

    # Recognising special tokens is a flag of the inner tokenizer. Threads share that, so the flag is never changed.

    @cached_property
    def _special(self) -> tokenizers.Tokenizer:
        """The tokenizer that recognises special tokens in texts."""
        return _reading_special(self._inner)

    @cached_property
    def _continuing_special(self) -> tokenizers.Tokenizer:
        """The tokenizer that recognises special tokens in texts that follow another text."""
        return self._special if self._continuing is self._inner else _reading_special(self._continuing)


def _reading_special(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return a copy of a tokenizer that recognises special tokens in texts."""
    copied = tokenizers.Tokenizer.from_str(inner.to_str())
    copied.encode_special_tokens = False
    return copied


def _from_merges(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """Load GPT-2's own files and the tokens that were added to them, as transformers does."""
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    inner.decoder = decoders.ByteLevel()
    added: dict[int, AddedToken] = {
        int(token_id): AddedToken(token, normalized=False)
        for token, token_id in read_model_file(folder, ADDED_TOKENS).items()
    }
    for token_id, entry in (config.get("added_tokens_decoder") or {}).items():
        flags = {name: bool(entry[name]) for name in ("single_word", "lstrip", "rstrip", "normalized") if name in entry}
        added[int(token_id)] = AddedToken(entry["content"], special=bool(entry.get("special")), **flags)
    for token_id, token in sorted(added.items()):
        (inner.add_special_tokens if token.special else inner.add_tokens)([token])
        if inner.token_to_id(token.content) != token_id:
            raise ValueError(f"the added token {token.content!r} does not get its id {token_id}")
    if config.get("add_bos_token"):
        bos = special_token(folder, "bos_token") or "<|endoftext|>"
        inner.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B:1"], special_tokens=[(bos, inner.token_to_id(bos))]
        )
    return inner


def _load(make: Callable[[], tokenizers.Tokenizer], folder: Path) -> tokenizers.Tokenizer:
    try:
        return make()
    except ModelError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exception for anything it cannot read
        raise ModelError(
            f"the tokenizer cannot be read ({error})", where=folder, hint="fetch its files again"
        ) from error


def _encoding_error(texts: Sequence[str], error: TypeError) -> Exception:
    """Return the cause of a `TypeError` of `tokenizers`: half of a surrogate pair, or an argument that is not a string.

    Python strings contain half of a surrogate pair after a JSON escape that is not a character, and for bytes of a
    command line that are not UTF-8.
    """
    text = next((text for text in texts if isinstance(text, str) and _SURROGATE.search(text)), None)
    if text is None:
        return error
    shown = text.encode("utf-8", "backslashreplace").decode()
    return DataError(f"the text {shown[:60]!r} is not UTF-8", hint="remove halves of surrogate pairs from it")


def _bos_ids(inner: tokenizers.Tokenizer) -> tuple[int, ...]:
    """Return the ids of the tokens that the post-processor puts before a text."""
    plain = inner.encode("a", add_special_tokens=False).ids
    whole = inner.encode("a", add_special_tokens=True).ids
    starts = range(len(whole) - len(plain) + 1)
    return tuple(whole[: next((at for at in starts if whole[at : at + len(plain)] == plain), 0)])


def _end_ids(config: dict[str, Any], inner: tokenizers.Tokenizer) -> tuple[int, ...]:
    """Return the ids of the end-of-text tokens in a configuration, those that the vocabulary has."""
    value = config.get("eos_token_id")
    ids = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int) and item >= 0]
    return tuple(token_id for token_id in dict.fromkeys(ids) if inner.id_to_token(token_id) is not None)


def _eos_token(inner: tokenizers.Tokenizer, end_ids: Sequence[int], named: str | None, folder: Path) -> str:
    """Return the end-of-text token to train with.

    Args:
        inner: the tokenizer.
        end_ids: the end-of-text tokens that the model's configuration names.
        named: the end-of-text token that the tokenizer's configuration names.
        folder: the model's folder, for messages.

    Raises:
        ModelError: no end-of-text token is known.
    """
    own = None if named is None else inner.token_to_id(named)
    if end_ids:
        token = inner.id_to_token(own if own in end_ids and own is not None else end_ids[0])
        assert token is not None, "checked when the ids were read"
        return token
    for candidate in (named, *_USUAL_EOS):
        if candidate is not None and inner.token_to_id(candidate) is not None:
            return candidate
    raise ModelError(
        "the tokenizer's end-of-text token is unknown", where=folder, hint="name it in tokenizer_config.json"
    )
