"""The sdist and the wheel: complete, and working in empty environments."""

from __future__ import annotations

import email
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

import tailora

ROOT = Path(__file__).parents[1]
IN_WINDOWS = sys.platform == "win32"
# Files under version control that belong to the repository alone.
NOT_IN_SDIST = {".pre-commit-config.yaml", ".gitignore", ".dockerignore"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(importlib.util.find_spec("build") is None, reason="the package `build` is not installed"),
]


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a program without this process's PYTHONPATH, and return what it printed, on both streams."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, built from the files of the checkout and unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        ".*_cache", ".git", ".venv", ".clients", "__pycache__", "build", "dist", "*.egg-info"
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, source)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, sdist)
    (wheel,) = folder.glob("*.whl")
    return wheel


def new_environment(folder: Path) -> Path:
    """Make an empty virtual environment and return the folder of its programs."""
    run(sys.executable, "-m", "venv", folder)
    return folder / ("Scripts" if IN_WINDOWS else "bin")


def test_the_sdist_holds_the_files_under_version_control(sdist: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    tracked = {line for line in run("git", "ls-files").splitlines() if (ROOT / line).is_file()}
    packed = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert tracked - packed <= NOT_IN_SDIST


def test_tests_run_from_the_unpacked_sdist(sdist: Path) -> None:
    names = ["test_adapter", "test_bleu", "test_config", "test_linearize", "test_samples"]
    files = [f"tests/{name}.py" for name in names]
    environment = {"PYTHONPATH": str(sdist / "src"), "PYTHONWARNINGS": ""}
    shown = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, cwd=sdist, **environment)
    assert re.search(r"^\d+ passed", shown, re.MULTILINE), shown


def test_the_wheel_holds_the_package_and_its_data(sdist: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        packed = set(file.namelist())
        (about,) = (name for name in packed if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(file.read(about))
    assert metadata["Version"] == tailora.__version__
    files = (
        path.relative_to(sdist / "src").as_posix() for path in (sdist / "src" / "tailora").rglob("*") if path.is_file()
    )
    assert {name for name in files if "__pycache__" not in name} <= packed
    assert {name.partition("/")[0] for name in packed} == {"tailora", about.partition("/")[0]}


def test_the_wheel_runs_the_quickstart_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """The environment has the wheel and, by a path file, the dependencies of this one but not its Tailora.

    `make wheel-check` installs the dependencies from an index.
    """
    programs = new_environment(tmp_path / "environment")
    run(programs / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)
    theirs = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    ours = [path for path in sys.path if Path(path).name == "site-packages"]
    (Path(theirs) / "dependencies.pth").write_text("".join(f"{path}\n" for path in ours), encoding="utf-8")
    clean = {"PYTHONPATH": "", "TAILORA_CACHE": str(tmp_path / "cache")}
    where = run(programs / "python", "-c", "import tailora; print(tailora.__file__)", cwd=tmp_path, **clean)
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert run(programs / "tailora", "--version", cwd=tmp_path, **clean).strip() == f"tailora {tailora.__version__}"
    printed = run(programs / "tailora", "quickstart", "--json", cwd=tmp_path, **clean)
    (result,) = (json.loads(line) for line in printed.splitlines() if line.startswith("{"))
    assert result


def has_index() -> bool:
    """Whether pip can fetch the smallest package of the list for serving."""
    options = ["--quiet", "--no-deps", "--retries", "0", "--timeout", "10"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "mdurl"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def serving(command: list[str | Path], address: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A server process that answers at an address."""
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with urlopen(f"{address}/ready", timeout=5):
                    break
            except (URLError, OSError):
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < end, "the server did not start within a minute"
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def resident_megabytes(process: subprocess.Popen[str]) -> float | None:
    """Memory that a process holds, in MB of 10^6 bytes; None where /proc does not tell."""
    status = Path(f"/proc/{process.pid}/status")
    found = (
        re.search(r"^VmRSS:\s*(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE) if status.exists() else None
    )
    return None if found is None else int(found[1]) * 1024 / 1e6


def test_the_environment_for_serving(wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the Dockerfile does: the locked list and the wheel, both without dependencies; then a server on `tiny`."""
    if not has_index():
        pytest.skip("no package index can be reached")
    programs = new_environment(tmp_path / "environment")
    install: list[str | Path] = [programs / "python", "-m", "pip", "install", "--quiet", "--no-deps"]
    run(*install, "-r", ROOT / "requirements-serve.txt")
    run(*install, wheel)
    run(programs / "python", "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools", "pip")
    size = sum(path.stat().st_size for path in (tmp_path / "environment").rglob("*") if path.is_file()) / 1e6
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [
        programs / "tailora",
        "serve",
        "--base",
        "tiny",
        "--backend",
        "openvino",
        "--port",
        str(port),
    ]
    clean = {"PYTHONPATH": "", "TAILORA_CACHE": str(tmp_path / "cache")}
    with serving(command, address, **clean) as process:
        body = json.dumps({"model": "tiny", "prompt": "The restaurant", "max_tokens": 8}).encode()
        request = Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        memory = resident_megabytes(process)
    assert answer["usage"]["completion_tokens"] > 0
    with capsys.disabled():
        held = "not measured" if memory is None else f"{memory:.0f} MB"
        print(f"\nserving environment: {size:.0f} MB on disk; the server on tiny holds {held}")
