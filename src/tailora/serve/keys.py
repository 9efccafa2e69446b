"""API keys: made here, kept as hashes, compared in constant time, each for some models or for all."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tailora.core.errors import DataError, SettingsError
from tailora.core.files import write_text

VARIABLE = "TAILORA_API_KEYS"
_PREFIX = "tailora-"


class Key(BaseModel):
    """A key as it is kept.

    Attributes:
        name: told in logs.
        sha256: of the key, in hexadecimal. Keys are drawn at random, so that their hash needs no salt.
        models: those that it may use; None for all.
        admin: whether it may load and unload adapters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    models: tuple[str, ...] | None = None
    admin: bool = False

    def may_use(self, model: str) -> bool:
        """Whether requests with this key may name a model."""
        return self.models is None or model in self.models


class KeyRing:
    """The keys that a server knows; without any, everybody may do everything."""

    def __init__(self, keys: tuple[Key, ...] = ()) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, presented: str) -> Key | None:
        """The key that was presented, or None. Takes the same time whichever it is."""
        digest = hashlib.sha256(presented.encode()).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found


def read_keys(path: Path | None, environment: Mapping[str, str]) -> KeyRing:
    """The keys of a file, and those of the environment in the same form.

    Raises:
        DataError: there is a place for keys that holds none, or not in this form.
    """
    keys: list[Key] = []
    if path is not None:
        try:
            keys += _parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            hint = "make one with `tailora key`"
            raise DataError(f"cannot be read ({reason})", where=path, hint=hint) from error
    if VARIABLE in environment:
        keys += _parse(environment[VARIABLE], VARIABLE)
    return KeyRing(tuple(keys))


def _parse(text: str, where: str) -> list[Key]:
    hint = "make it with `tailora key`"
    try:
        entries = yaml.safe_load(text)
        keys = [Key(**entry) for entry in entries]
    except (yaml.YAMLError, TypeError, ValidationError) as error:
        # The error itself would show what stands there, which may be a key.
        raise DataError("is no list of hashed API keys", where=where, hint=hint) from error
    if not keys:
        raise DataError("holds no API key", where=where, hint=hint)
    return keys


def add_key(path: Path, name: str, *, models: tuple[str, ...] | None = None, admin: bool = False) -> str:
    """Make a key, add its hash to a file, and return the key, which is kept nowhere.

    Args:
        path: a file of keys, which is created if it does not exist.
        name: shown in logs.
        models: those that it may use; None for all.
        admin: whether it may load and unload adapters.

    Raises:
        SettingsError: the file already has a key of this name.
        DataError: the file is not a file of keys.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    keys = _parse(text, str(path)) if _is_filled(text) else []
    if any(key.name == name for key in keys):
        raise SettingsError(f"{path} already has a key for {name!r}", where="name", hint="remove its entry first")
    key = _PREFIX + secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()}
    entry |= {"models": list(models)} if models else {}
    entry |= {"admin": True} if admin else {}
    write_text(path, _with_entry(text, keys, entry))
    return key


def _is_filled(text: str) -> bool:
    """Whether a file of keys holds anything but white space and comments."""
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def _with_entry(text: str, keys: list[Key], entry: dict[str, Any]) -> str:
    """A file of keys with one more: appended, which keeps comments, where that is valid, else written anew."""
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
