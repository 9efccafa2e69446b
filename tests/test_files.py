"""Files and folders appear whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.core import files
from tailora.core.errors import ModelError, SettingsError
from tailora.core.files import (
    atomic_folder,
    atomic_path,
    cache_folder,
    read_json_object,
    recover,
    require_own,
    write_json,
    write_text,
)

INTERRUPTIONS = [ValueError, KeyboardInterrupt, SystemExit]
posix = pytest.mark.skipif(sys.platform == "win32", reason="permission bits are POSIX's")


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def half_write(path: Path, interruption: type[BaseException]) -> None:
    path.write_text("half", encoding="utf-8")
    raise interruption


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("before", [None, "old"])
def test_an_interrupted_file_leaves_what_was_there(
    tmp_path: Path, before: str | None, interruption: type[BaseException]
) -> None:
    target = tmp_path / "made.txt"
    if before is not None:
        target.write_text(before, encoding="utf-8")
    with pytest.raises(interruption), atomic_path(target) as path:
        half_write(path, interruption)
    assert listing(tmp_path) == ([] if before is None else ["made.txt"])
    assert before is None or target.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_folder_leaves_what_was_there(
    tmp_path: Path, before: bool, interruption: type[BaseException]
) -> None:
    target = tmp_path / "made"
    if before:
        target.mkdir()
        (target / "old").touch()
    with pytest.raises(interruption), atomic_folder(target) as folder:
        half_write(folder / "new", interruption)
    assert listing(tmp_path) == (["made"] if before else [])
    assert not before or listing(target) == ["old"]


def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "made"
    for name in ("first", "second"):
        with atomic_folder(target) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / name).write_text(name, encoding="utf-8")
    assert listing(target.parent) == ["made"]
    assert listing(target / "inner") == ["second"]


def test_a_folder_comes_back_when_its_successor_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "made"
    target.mkdir()
    (target / "old").touch()
    rename = Path.replace

    def refuse(path: Path, to: Path) -> Path:
        if path.name.endswith(".part"):
            raise PermissionError("in use")
        return rename(path, to)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError), atomic_folder(target) as folder:
        (folder / "new").touch()
    assert listing(tmp_path) == ["made"]
    assert listing(target) == ["old"]


@posix
def test_what_is_written_can_be_read_as_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "file", "text")
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "inner").touch(0o600)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"file": 0o644, "folder": 0o755, "inner": 0o644}


def test_a_folder_that_is_in_use_stays_and_nothing_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    rename = Path.replace

    def refuse(path: Path, to: Path) -> Path:
        if path.name == "made":
            raise PermissionError("in use")
        return rename(path, to)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError), atomic_folder(tmp_path / "made") as folder:
        (folder / "new").touch()
    assert listing(tmp_path) == ["made"]


def test_what_a_scanner_has_open_for_a_moment_is_renamed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, refusals = Path.replace, [1, 2]

    def refuse(path: Path, to: Path) -> Path:
        if refusals:
            refusals.pop()
            raise PermissionError(errno.EACCES, "in use", str(path))
        return rename(path, to)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(files, "_PATIENCE", 60.0)  # as on Windows, where it is shorter
    write_text(tmp_path / "file", "text")
    assert listing(tmp_path) == ["file"]
    refusals.append(1)
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "new").touch()
    assert listing(tmp_path / "folder") == ["new"]


def test_a_folder_that_is_still_read_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS keeps a file that another process has open, under another name, so that its folder is not empty."""

    def busy(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    (tmp_path / "made").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(files.shutil, "rmtree", busy)
        with atomic_folder(tmp_path / "made") as folder:
            (folder / "new").touch()
        recover(tmp_path)
    assert listing(tmp_path / "made") == ["new"]
    recover(tmp_path)
    assert listing(tmp_path) == ["made"]


def test_a_folder_is_not_made_of_a_private_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def private(**_: Any) -> None:
        raise AssertionError("on Windows, only its user can read what is in it")

    monkeypatch.setattr(files.tempfile, "mkdtemp", private)
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "made") as folder:
            (folder / name).touch()
    assert listing(tmp_path) == ["made"]
    assert listing(tmp_path / "made") == ["second"]


def test_a_drive_without_permissions_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    write_text(tmp_path / "file", "text")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "new").touch()
    assert listing(tmp_path) == ["file", "folder"]


@posix
def test_threads_that_ask_for_the_umask_leave_it_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    change = os.umask

    def slowly(mask: int) -> int:
        before = change(mask)
        time.sleep(0.02)  # another thread comes in between
        return before

    before = change(0o027)
    try:
        with monkeypatch.context() as patched, ThreadPoolExecutor(4) as pool:
            patched.setattr(os, "umask", slowly)
            assert list(pool.map(lambda _: files._umask(), range(8))) == [0o027] * 8
        assert change(0o027) == 0o027
    finally:
        change(before)


@given(st.text(st.characters(codec="utf-8")))
def test_text_is_written_as_it_is(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    target = tmp_path_factory.mktemp("text") / "file"
    write_text(target, text)
    assert target.read_bytes() == text.encode("utf-8")


def test_json_keeps_letters_and_refuses_what_json_has_not(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    write_json(target, {"tên": "Phở", "list": [1, None]})
    assert json.loads(target.read_text(encoding="utf-8")) == {"tên": "Phở", "list": [1, None]}
    assert "Phở" in target.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"loss": float("nan")})
    assert "Phở" in target.read_text(encoding="utf-8")


def test_the_cache_stands_where_the_user_says(cache: Path) -> None:
    assert cache_folder() == cache


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "tailora"),
        ("win32", "LOCALAPPDATA", "tailora/cache"),
    ],
)
def test_the_cache_stands_in_the_systems_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variable: str, expected: str
) -> None:
    monkeypatch.delenv("TAILORA_CACHE")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == tmp_path / expected
    monkeypatch.delenv(variable)
    assert Path.home() in cache_folder().parents


def test_a_user_without_a_home_directory_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("TAILORA_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)  # as in a container that runs as a user of no list
    with pytest.raises(SettingsError, match="TAILORA_CACHE"):
        cache_folder()
    monkeypatch.setenv("TAILORA_CACHE", "~/cache")
    with pytest.raises(SettingsError, match=r"name a folder without ~ in the environment variable TAILORA_CACHE"):
        cache_folder()


@pytest.mark.parametrize("make", [atomic_path, atomic_folder])
def test_a_refusal_that_a_library_only_tells_in_words_is_the_systems(tmp_path: Path, make: Any) -> None:
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "made"))) as caught, make(tmp_path / "made"):
        raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert sys.platform == "win32" or caught.value.errno == errno.ENOSPC
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"a\.json: is not valid JSON \(.*\); fetch it again"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b"[]", r"a\.json: is not a JSON object; fetch it again"),
        (None, r"a\.json: there is no such file; fetch it again"),
    ],
)
def test_a_json_file_that_is_not_an_object_is_one_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_json_object(path, ModelError, hint="fetch it again")


def test_an_optional_json_file_is_empty_where_it_does_not_exist(tmp_path: Path) -> None:
    assert read_json_object(tmp_path / "a.json", ModelError, optional=True) == {}
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json_object(tmp_path / "a.json", ModelError, optional=True) == {"a": 1}


@posix
def test_a_file_that_is_replaced_keeps_its_permissions_and_the_links_to_it(tmp_path: Path) -> None:
    real, link, absent = tmp_path / "real.txt", tmp_path / "link.txt", tmp_path / "new.txt"
    real.write_text("old", encoding="utf-8")
    real.chmod(0o600)
    link.symlink_to("real.txt")
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    link.unlink()
    link.symlink_to("new.txt")
    write_text(link, "made")
    assert link.is_symlink()
    assert absent.read_text(encoding="utf-8") == "made"


@posix
def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="pipe: is a device or a pipe, not a file"):
        write_text(tmp_path / "pipe", "a")
    with pytest.raises(SettingsError, match="pipe: is a device or a pipe, not a file"):
        require_own(tmp_path / "pipe", lambda _: True, "anything")
    assert listing(tmp_path) == ["pipe"]


def test_what_a_killed_process_left_is_removed_or_put_back(tmp_path: Path) -> None:
    """As `atomic_path` and `atomic_folder` leave it when their process is killed at any moment."""
    (tmp_path / ".a.json.x1.part").write_text("half", encoding="utf-8")
    (tmp_path / ".adapter.x2.part").mkdir()
    (tmp_path / ".adapter.x2.part" / "half").touch()
    (tmp_path / ".adapter.x3.old" / "adapter").mkdir(parents=True)
    (tmp_path / ".adapter.x3.old" / "adapter" / "whole").touch()
    (tmp_path / ".model.x4.old" / "model").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "new").touch()
    recover(tmp_path, "adapter")
    assert listing(tmp_path) == [".a.json.x1.part", ".model.x4.old", "adapter", "model"]
    recover(tmp_path)
    assert listing(tmp_path) == ["adapter", "model"]
    assert (listing(tmp_path / "adapter"), listing(tmp_path / "model")) == (["whole"], ["new"])
