"""What differs between systems, read from the source: POSIX-only calls, encodings, names of files."""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("src", "tools", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_CALLS = {
    "os": {
        *("chown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "kill"),
        *("killpg", "mkfifo", "nice", "sched_getaffinity", "sched_setaffinity", "setsid", "sysconf", "uname"),
    },
    "signal": {"SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "alarm", "pthread_kill", "setitimer"},
    "time": {"tzset"},
}
POSIX_OPTIONS = {"preexec_fn", "start_new_session", "shell"}
# Modules that read files of Linux and treat a file that does not exist as "not known".
LINUX_FILES = {"cgroups.py", "memory.py", "processor.py", "studies.py"}
RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}


def unguarded(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module that run on every system: those outside a condition on `sys.platform`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If | ast.IfExp) and "sys.platform" in ast.unparse(child.test):
            continue
        yield child
        yield from unguarded(child)


def posix_only(node: ast.AST) -> str | None:
    """What a node uses that Windows does not have."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return ast.unparse(node) if node.attr in POSIX_CALLS.get(node.value.id, ()) else None
    if isinstance(node, ast.Import):
        return next((alias.name for alias in node.names if alias.name in POSIX_MODULES), None)
    if isinstance(node, ast.ImportFrom):
        names = {alias.name for alias in node.names} & POSIX_CALLS.get(node.module or "", set())
        return node.module if node.module in POSIX_MODULES else next(iter(names), None)
    return node.arg if isinstance(node, ast.keyword) and node.arg in POSIX_OPTIONS else None


def without_encoding(node: ast.AST) -> str | None:
    """A call that reads or writes text in the encoding of the system."""
    if not isinstance(node, ast.Call):
        return None
    options = {keyword.arg for keyword in node.keywords}
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if (
        name in {"run", "Popen", "check_output"}
        and options & {"text", "universal_newlines"}
        and "encoding" not in options
    ):
        return ast.unparse(node.func)
    if not isinstance(node.func, ast.Attribute) and name != "open":
        return None
    if name in {"read_text", "write_text"} and isinstance(node.func, ast.Attribute):
        return None if "encoding" in options or len(node.args) > (name == "write_text") else ast.unparse(node.func)
    if name == "open" and not (isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in LIBRARIES):
        modes = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        modes += [str(ast.literal_eval(keyword.value)) for keyword in node.keywords if keyword.arg == "mode"]
        binary = any("b" in mode for mode in modes)
        return None if binary or "encoding" in options else ast.unparse(node.func)
    return None


# Their `open` is not that of a text file.
LIBRARIES = {"os", "gzip", "bz2", "lzma", "tarfile", "zipfile", "archive", "cls", "TrainingRun"}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def test_posix_calls_are_guarded() -> None:
    used = [
        f"{path}:{getattr(node, 'lineno', '?')}: {name}"
        for path in FILES
        for node in unguarded(tree_of(path))
        if (name := posix_only(node))
    ]
    assert not used, "put it under `if sys.platform …`, with what other systems do"


def test_texts_have_an_encoding() -> None:
    used = [
        f"{path}:{getattr(node, 'lineno', '?')}: {name}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if (name := without_encoding(node))
    ]
    assert not used, "name the encoding"


def test_files_of_linux_are_read_in_few_places() -> None:
    places = {
        path.name
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(("/proc/", "/sys/"))
    }
    assert places <= LINUX_FILES


def test_file_names_are_valid_on_every_system() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    names = listed.stdout.split("\0")[:-1]
    assert len({name.casefold() for name in names}) == len(names), "two names differ only in case"
    for name in names:
        parts = Path(name).parts
        assert not {part.partition(".")[0].casefold() for part in parts} & RESERVED, name
        assert not set(name) & set('<>:"\\|?*'), name
        assert not any(part.endswith((".", " ")) for part in parts), name
        assert len(name) < 180, name
