"""API keys: created here, stored as hashes, compared in constant time, each for some models or for all."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tailora.core.errors import DataError, SettingsError, unreadable
from tailora.core.file_lock import only_writer
from tailora.core.files import write_text
from tailora.core.yaml_file import UniqueKeyLoader

VARIABLE = "TAILORA_API_KEYS"
_PREFIX = "tailora-"


class Key(BaseModel):
    """A key as it is stored.

    Attributes:
        name: name of the key in the log.
        sha256: hash of the key in hexadecimal. Keys are random, so the hash needs no salt.
        models: names of the models that the key may use; None for all.
        admin: whether the key may load and unload adapters, and reload the configuration.
        requests_per_minute: largest number of requests a minute; None for any number.
        tokens_per_minute: largest number of tokens a minute, of prompts and texts; None for any number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    models: tuple[str, ...] | None = None
    admin: bool = False
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)

    def may_use(self, model: str) -> bool:
        """Return whether requests with this key may use a model."""
        return self.models is None or model in self.models


class KeyRing:
    """The keys that a server accepts. Without keys every request is accepted."""

    def __init__(self, keys: tuple[Key, ...] = ()) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def replace(self, other: KeyRing) -> None:
        """Accept the keys of another ring from here on, in place of these."""
        self._keys = tuple(other)

    def find(self, presented: str) -> Key | None:
        """Return the key that a client presented, or None. The time does not depend on which key it is."""
        digest = hashlib.sha256(presented.encode()).hexdigest()
        match = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                match = key
        return match


def read_keys(path: Path | None, environment: Mapping[str, str]) -> KeyRing:
    """Read the keys of a file and of the environment variable `TAILORA_API_KEYS`, which has the same form.

    Args:
        path: YAML file of hashed keys; None reads the variable alone.
        environment: environment variables.

    Raises:
        DataError: the file cannot be read, or file or variable contain no keys in this form.
    """
    keys: list[Key] = []
    if path is not None:
        keys += _parse(_text_of(path), str(path))
    if VARIABLE in environment:
        keys += _parse(environment[VARIABLE], VARIABLE)
    return KeyRing(tuple(keys))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(unreadable(error), where=path, hint="create it with `tailora key`") from error


def _parse(text: str, where: str) -> list[Key]:
    hint = "create it with `tailora key`"
    try:
        entries = yaml.load(text, UniqueKeyLoader)
        keys = [Key(**entry) for entry in entries]
    except (yaml.YAMLError, TypeError, ValueError, OverflowError, RecursionError) as error:
        # The error itself would quote the text, which may be a key.
        raise DataError("is not a list of hashed API keys", where=where, hint=hint) from error
    if not keys:
        raise DataError("contains no API keys", where=where, hint=hint)
    return keys


def add_key(
    path: Path,
    name: str,
    *,
    models: tuple[str, ...] | None = None,
    admin: bool = False,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> str:
    """Create a key, add its hash to a file, and return the key, which is stored nowhere.

    Args:
        path: file of keys; it is created if it does not exist.
        name: name of the key in the log.
        models: names of the models that it may use; None for all.
        admin: whether it may load and unload adapters, and reload the configuration.
        requests_per_minute: see `Key`.
        tokens_per_minute: see `Key`.

    Raises:
        SettingsError: the file already has a key of this name.
        DataError: the file is not a file of keys.
    """
    path = Path(os.path.realpath(path))  # the file that other processes lock, too
    key = _PREFIX + secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()}
    entry |= {"models": list(models)} if models else {}
    entry |= {"admin": True} if admin else {}
    limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    entry |= {limit: number for limit, number in limits.items() if number is not None}
    with only_writer(path):
        text = _text_of(path) if path.exists() else ""
        keys = _parse(text, str(path)) if _is_filled(text) else []
        if any(key.name == name for key in keys):
            raise SettingsError(f"{path} already has a key for {name!r}", where="name", hint="remove its entry first")
        write_text(path, _with_entry(text, keys, entry))
    return key


def _is_filled(text: str) -> bool:
    """Whether a file of keys contains anything but white space and comments."""
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def _with_entry(text: str, keys: list[Key], entry: dict[str, Any]) -> str:
    """Return the file with one more key, appended to keep comments; written from scratch if that would be invalid."""
    added = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)
    whole = text + ("" if not text or text.endswith("\n") else "\n") + added
    wanted = [*keys, Key(**entry)]
    try:
        if _parse(whole, "") == wanted:
            return whole
    except DataError:  # the list is indented, in brackets, or ends with an end mark
        pass
    entries = [key.model_dump(mode="json", exclude_defaults=True) for key in wanted]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
