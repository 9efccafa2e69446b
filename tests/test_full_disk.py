"""A full disk: one error, nothing that was there is lost, and the same command finishes after space is freed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tailora import cli

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk"),
]
COMMON = ("--base=tiny", "--precision=fp32")
TRAIN = ("train", "--data=restaurants", *COMMON, "--device=cpu", "--limit=4", "--valid-limit=2", "--max-steps=4")
ROWS = ("--input=restaurants", "--split=test", "--limit=40", "--max-new-tokens=24", "--device=cpu", "--precision=fp32")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": (*TRAIN, "--eval-every=2", "--save-every=0", "--output=DISK/run"),
    "convert": ("convert", "--adapter=ADAPTER", "--to=loralib", "--output=DISK/lora.bin"),
    "merge": ("merge", "--base=tiny", "--adapter=ADAPTER", "--output=DISK/merged"),
    "quantize": ("quantize", "--base=tiny", "--to=int8", "--output=DISK/quantised"),
    "generate": ("generate", "--adapter=ADAPTER", *ROWS, "--output=DISK/texts.jsonl"),
    "evaluate": ("evaluate", "--adapter=ADAPTER", *ROWS, "--output=DISK/scores"),
    "clean": ("clean", "restaurants", "--split=test", "--output=DISK/clean.csv"),
    "draft": ("draft", "--adapter=DISK/adapter", "--data=restaurants"),
}
ROOM = (0, 40_000, 3_000_000)
"""Bytes that are left on the disk when a command starts."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 30 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    assert cli.main([*TRAIN, f"--output={folder / 'run'}"]) == 0
    return folder / "run" / "adapter"


def contents(folder: Path) -> dict[str, Any]:
    """What depends on the command alone, neither times nor names of folders: tensors, tables and texts, by file."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.suffix in (".safetensors", ".drafts"):
            found[name] = {key: value.numpy().tobytes() for key, value in load_file(path).items()}
        elif path.suffix == ".bin":
            found[name] = {key: value.numpy().tobytes() for key, value in torch.load(path).items()}
        elif path.suffix == ".csv":
            found[name] = path.read_bytes()
        elif path.suffix == ".jsonl" and path.name != "metrics.jsonl":
            found[name] = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(disk: Path, adapter: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    def run(folder: Path) -> tuple[int, list[str]]:
        words = [word.replace("DISK", str(folder)).replace("ADAPTER", str(adapter)) for word in COMMANDS[name]]
        status = cli.main(words)
        return status, [line for line in capfd.readouterr().err.splitlines() if line.startswith("tailora")]

    for folder in (disk, tmp_path / "roomy"):
        shutil.copytree(adapter, folder / "adapter")
        (folder / "adapter" / "tailora.drafts").unlink(missing_ok=True)
    kept = contents(disk)
    assert run(tmp_path / "roomy")[0] == 0
    failures = 0
    for room in ROOM:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "filler").write_bytes(bytes(max(0, free - room)))
        status, errors = run(disk)
        (disk / "filler").unlink()
        if status == 0:
            break
        failures += 1
        assert (status, len(errors)) == (2, 1), errors
        assert "No space left on device" in errors[0]
        assert kept.items() <= contents(disk).items(), "what was there is whole"
        assert not list(disk.rglob("*.part")), "and no part of a file is left"
    else:
        assert run(disk)[0] == 0
    assert failures
    assert contents(disk) == contents(tmp_path / "roomy")
