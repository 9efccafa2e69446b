"""Text to token ids and back without torch or transformers, from the files of a model folder."""

from __future__ import annotations

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

_HALF = re.compile(r"[\ud800-\udfff]")  # of a surrogate pair
_USUAL_EOS = ("<|endoftext|>", "</s>", "<|im_end|>", "<|end_of_text|>", "<eos>")


class Tokenizer:
    """Text to token ids and back.

    Text is only ever text: a record that contains "<|endoftext|>" gives ordinary tokens, never the special one, and
    nothing is added at either end. Every method may be called from any thread.

    Args:
        inner: the tokenizer of the `tokenizers` library.
        eos_token: the token that training puts at the end of a text.
        config: content of tokenizer_config.json.
        end_ids: tokens that end a generated text; by default `eos_token` alone.
        first_end_id: what the first edition took as the end of a text (the first in config.json); by default
            `eos_token`. Adapters that do not name their end-of-text token were trained with it.

    Attributes:
        eos_token: as above.
        eos_id: its id.
        end_ids: every token that ends a generated text, `eos_id` among them.
        first_end_id: as above.
        bos_ids: the tokens that begin a text, as the tokenizer's post-processor adds them; often none.
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

        As in transformers, every `eos_token_id` of generation_config.json, else of config.json, ends a text. The one
        that training teaches is the tokenizer's own end-of-text token if it is one of them, else the first of them.
        Without any it is the one in tokenizer_config.json or special_tokens_map.json, else the usual one that the
        vocabulary has.

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
                "holds no tokenizer", where=folder, hint="put tokenizer.json, or vocab.json and merges.txt, there"
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

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens as they would stand in a text."""
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
            text: what to encode.
            special: read special tokens in it, as in the output of a chat template.
            continues: the text follows another, so that nothing is put before its first word.

        Raises:
            DataError: the text holds what is no character.
        """
        if special:
            inner = self._continuing_special if continues else self._special
        else:
            inner = self._continuing if continues else self._inner
        try:
            return inner.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise _no_character([text], error) from error

    def encode_batch(self, texts: Sequence[str], *, continues: bool = False) -> list[list[int]]:
        """Return the token ids of each text, see `encode`; faster than one by one."""
        inner = self._continuing if continues else self._inner
        try:
            return [encoding.ids for encoding in inner.encode_batch_fast(list(texts), add_special_tokens=False)]
        except TypeError as error:
            raise _no_character(texts, error) from error

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Return the text of token ids; special tokens are left out unless `special`.

        Bytes that are not UTF-8, as a text cut inside a character ends in, become U+FFFD.
        """
        return self._inner.decode(list(ids), skip_special_tokens=not special)

    def decode_written(self, ids: Iterable[int]) -> str:
        """Return the text of token ids that follow a prompt, without special tokens.

        Tokenizers of SentencePiece's kind drop a space at the beginning of a text. Here it is kept: it stands
        between the prompt's last word and the first one written.
        """
        if not self._bytes.drops_space:
            return self.decode(ids)
        return self.decode([*self._anchor, *ids])[len(self.decode(self._anchor)) :]

    def token_bytes(self, token: int, *, begins: bool = False) -> bytes:
        """Return the bytes that a token stands for, perhaps a part of a character; a special token's are its name.

        Args:
            token: its id.
            begins: it is the first of a text, where some tokenizers drop a space.
        """
        text = self._inner.id_to_token(token)
        if text is None:
            return b""
        if token in self.special_ids:
            return text.encode()
        return self._bytes.of(text, begins=begins)

    def is_byte(self, token: int) -> bool:
        """Whether a token is one byte as SentencePiece writes it, whose text depends on the bytes beside it."""
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
        """Tokens that a text may follow."""
        return self.encode("a")

    @cached_property
    def _continuing(self) -> tokenizers.Tokenizer:
        """The tokenizer of texts that follow others."""
        settings = json.loads(self._inner.to_str())
        changed = without_leading_space(settings)
        if changed == settings:
            return self._inner
        inner = tokenizers.Tokenizer.from_str(json.dumps(changed))
        inner.encode_special_tokens = True
        return inner

    # Whether special tokens are read is a flag of the inner tokenizer, which threads share: none of them changes it.

    @cached_property
    def _special(self) -> tokenizers.Tokenizer:
        """The tokenizer that reads special tokens in texts."""
        return _reading_special(self._inner)

    @cached_property
    def _continuing_special(self) -> tokenizers.Tokenizer:
        """The same for texts that follow others."""
        return self._special if self._continuing is self._inner else _reading_special(self._continuing)


def _reading_special(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy of a tokenizer that reads special tokens in texts."""
    copied = tokenizers.Tokenizer.from_str(inner.to_str())
    copied.encode_special_tokens = False
    return copied


def _from_merges(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """GPT-2's own files, with the tokens that were added to them, as transformers reads them."""
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    inner.decoder = decoders.ByteLevel()
    added: dict[int, AddedToken] = {
        int(token_id): AddedToken(token, normalized=False)
        for token, token_id in read_model_file(folder, ADDED_TOKENS).items()
    }
    for token_id, each in (config.get("added_tokens_decoder") or {}).items():
        flags = {name: bool(each[name]) for name in ("single_word", "lstrip", "rstrip", "normalized") if name in each}
        added[int(token_id)] = AddedToken(each["content"], special=bool(each.get("special")), **flags)
    for token_id, each in sorted(added.items()):
        (inner.add_special_tokens if each.special else inner.add_tokens)([each])
        if inner.token_to_id(each.content) != token_id:
            raise ValueError(f"the added token {each.content!r} does not get its id {token_id}")
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


def _no_character(texts: Sequence[str], error: TypeError) -> Exception:
    """What a `TypeError` of `tokenizers` means: a text with half of a surrogate pair, or an argument that is no text.

    Python has such halves for escapes of JSON that spell no character, and for bytes of a command line that are not
    UTF-8.
    """
    text = next((text for text in texts if isinstance(text, str) and _HALF.search(text)), None)
    if text is None:
        return error
    shown = text.encode("utf-8", "backslashreplace").decode()
    return DataError(f"the text {shown[:60]!r} is not UTF-8", hint="remove halves of surrogate pairs from it")


def _bos_ids(inner: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The tokens that the post-processor puts before a text."""
    plain = inner.encode("a", add_special_tokens=False).ids
    whole = inner.encode("a", add_special_tokens=True).ids
    starts = range(len(whole) - len(plain) + 1)
    return tuple(whole[: next((at for at in starts if whole[at : at + len(plain)] == plain), 0)])


def _end_ids(config: dict[str, Any], inner: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The end-of-text tokens that a configuration names and the vocabulary has."""
    ids = config.get("eos_token_id")
    found = [each for each in (ids if isinstance(ids, list) else [ids]) if isinstance(each, int) and each >= 0]
    return tuple(each for each in dict.fromkeys(found) if inner.id_to_token(each) is not None)


def _eos_token(inner: tokenizers.Tokenizer, end_ids: Sequence[int], named: str | None, folder: Path) -> str:
    """The end-of-text token to teach."""
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
