"""Atomic writes (temporary file beside the target, fsync, rename), JSON files and the cache folder."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tailora.core.errors import SettingsError, UserError, unreadable

_PROBE = 1 << 20
"""Bytes written after a failed write to find out whether the disk is full."""
_PATIENCE = 2.0 if sys.platform == "win32" else 0.0
"""Seconds in which a rename is tried again: on Windows it fails while a virus scanner has a file open."""
_UMASK = threading.Lock()


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is renamed to `target`, on any exception it is deleted.

    A file that is replaced keeps its permissions, and a link to it stays a link.

    Raises:
        SettingsError: there is something at `target` that is neither a file nor a folder, such as a device.
    """
    target = _replaceable(Path(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _set_mode(temporary, stat.S_IMODE(target.stat().st_mode) if target.is_file() else 0o666 & ~_umask())
        _rename(temporary, target)
    except BaseException as error:
        system = _system_error(error, target) or _refused_write(error, temporary, target)
        temporary.unlink(missing_ok=True)
        if system is not None:
            raise system from error
        raise


def _replaceable(target: Path) -> Path:
    """Return the path of the file that would be replaced: that behind a link."""
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise SettingsError("is a device or a pipe, not a file", where=target, hint="name a file")
    return target


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it replaces `target`, on any exception it is deleted."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _new_folder(target, "part")
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
                _set_mode(path, 0o666 & ~_umask())  # safetensors creates private files
        if target.exists():
            old = _new_folder(target, "old")
            try:
                _rename(target, old / target.name)
                _rename(temporary, target)
            except BaseException:
                if not target.exists():
                    _rename(old / target.name, target)
                shutil.rmtree(old, ignore_errors=True)
                raise
            shutil.rmtree(old, ignore_errors=True)  # on NFS, what another process reads cannot be removed yet
        else:
            _rename(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (system := _system_error(error, target)) is not None:
            raise system from error
        raise


def _new_folder(target: Path, ending: str) -> Path:
    """Create a hidden folder beside a target, with the permissions of any new folder.

    Those of `tempfile.mkdtemp` are its user's alone, and on Windows nothing but a new list of rights changes that.
    """
    while True:
        folder = target.parent / f".{target.name}.{secrets.token_hex(4)}.{ending}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def _rename(source: Path, target: Path) -> None:
    """Rename a file, which may replace another one, or a folder.

    On Windows this fails while the file, or one in the folder, is open anywhere. Here, tensors that are not freed yet
    may be views of it.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            source.replace(target)
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            gc.collect()
            time.sleep(0.05)
        else:
            return


def _set_mode(path: Path, mode: int) -> None:
    """Set permissions, as far as the file system has them: some drives that are mounted refuse to change any."""
    with contextlib.suppress(OSError):
        path.chmod(mode)


def recover(folder: Path, name: str = "*") -> None:
    """Remove what killed processes have left of unfinished writes, and put back what they were about to replace.

    Args:
        folder: where the files and folders were written.
        name: their name, which no other process may be writing; a pattern as of `Path.glob`.
    """
    for old in folder.glob(f".{name}.*.old"):
        for replaced in old.iterdir():
            if not (folder / replaced.name).exists():
                replaced.rename(folder / replaced.name)
        shutil.rmtree(old, ignore_errors=True)
    for part in folder.glob(f".{name}.*.part"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink()


def output_exists(path: str | os.PathLike[str]) -> SettingsError:
    """Return the error for an output that would replace something."""
    return SettingsError("already exists", where=path, hint="choose another place with --output")


def require_new(path: Path, *, empty_folder: bool = True) -> None:
    """Check that an output would replace nothing.

    Args:
        path: a file or folder to be written.
        empty_folder: whether `path` may be an empty folder.

    Raises:
        SettingsError: there is something at `path`.
    """
    if path.exists() and not (empty_folder and path.is_dir() and not any(path.iterdir())):
        raise output_exists(path)


def require_own(path: Path, is_own: Callable[[bytes], bool], what: str) -> None:
    """Check that a file which an output would replace is one of its kind, and not data under the same name.

    Args:
        path: file to be written.
        is_own: returns whether the first 64 KiB of a file are of this kind.
        what: the kind, for the message.

    Raises:
        SettingsError: there is a folder, a device or a file of another kind at `path`.
    """
    if not _replaceable(path).exists():
        return
    start = b"" if path.is_dir() else _start_of(path)
    if path.is_dir() or (start.strip() and not is_own(start)):
        raise SettingsError(f"exists and is not {what}", where=path, hint="choose another name")


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 16)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Create a folder if it does not exist, and raise the system's `OSError` if no file can be created in it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _system_error(error: BaseException, target: Path) -> OSError | None:
    """The `OSError` behind an exception of a Rust library (safetensors), which has its number in the message only."""
    number = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
    if number is None:
        return None
    code = int(number[1])
    if sys.platform == "win32":
        return OSError(0, str(error), str(target), code)
    return OSError(code, os.strerror(code), str(target))


def _refused_write(error: BaseException, temporary: Path, target: Path) -> OSError | None:
    """The `OSError` behind an exception of torch or numpy, which do not say why a write failed; found by writing on."""
    if not isinstance(error, RuntimeError) and not (isinstance(error, OSError) and error.errno is None):
        return None
    try:
        with temporary.open("ab") as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refusal:
        return OSError(refusal.errno, refusal.strerror, str(target))
    return None


def _umask() -> int:
    with _UMASK:  # a thread that asks in between would be given 0, and leave it for the process
        umask = os.umask(0)
        os.umask(umask)
    return umask


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically, with "\\n" line ends on every system."""
    with atomic_path(target) as path:
        path.write_bytes(text.encode("utf-8"))


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json_object(
    path: Path, error: type[UserError], *, hint: str | None = None, optional: bool = False
) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        error: the type of error to raise.
        hint: what the user can do about a file that is missing or broken, in the imperative.
        optional: whether a file that does not exist counts as an empty object.

    Raises:
        UserError: of the type `error`: the file is missing, is not valid JSON in UTF-8, or is not an object.
    """
    if optional and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(unreadable(problem), where=path, hint=hint) from problem
    except (ValueError, RecursionError) as problem:
        raise error(f"is not valid JSON ({problem})", where=path, hint=hint) from problem
    if not isinstance(value, dict):
        raise error("is not a JSON object", where=path, hint=hint)
    return value


def cache_folder() -> Path:
    """Return the folder for downloads, conversions and other files that can be created again; it may not exist.

    It is `TAILORA_CACHE` if that is set, and the system's cache folder otherwise:
    `$XDG_CACHE_HOME/tailora` or `~/.cache/tailora`, `~/Library/Caches/tailora` on macOS,
    `%LOCALAPPDATA%\\tailora\\cache` on Windows.

    Raises:
        SettingsError: none of them is set, and the user has no home directory.
    """
    try:
        if chosen := os.environ.get("TAILORA_CACHE"):
            return Path(chosen).expanduser().absolute()
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "tailora" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "tailora"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tailora"
    except RuntimeError as error:  # in a container, without HOME and without an entry in /etc/passwd
        hint = "name a folder without ~ in the environment variable TAILORA_CACHE"
        raise SettingsError("the user has no home directory for the cache", hint=hint) from error
