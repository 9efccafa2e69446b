"""Completion: what bash, zsh and fish offer after the generated scripts were loaded."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from tailora.commands import COMMANDS, settings_class
from tailora.commands.completion import CompletionSettings, run
from tailora.core.completion import Shell


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    return {shell: run(CompletionSettings(shell=shell))["script"] for shell in get_args(Shell)}


def ask_bash(script: str, folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of some words."""
    (folder / "completion.bash").write_text(script, encoding="utf-8")
    line = " ".join(f"'{word}'" for word in words)
    program = f"source completion.bash; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _tailora; "
    program += 'printf "%s\\n" "${COMPREPLY[@]}"'
    shown = subprocess.run(["bash", "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    return shown.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("tailora", "qua"), ["quantize"]),
        (("tailora", "train", "--meth"), ["--method"]),
        (("tailora", "train", "--method", ""), ["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"]),
        (("tailora", "train", "--method", "=", "b"), ["bitfit"]),
        (("tailora", "train", "--method", "="), ["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"]),
        (("tailora", "train", "--rank", ""), []),
        (("tailora", "train", "--data", "reco"), ["records.csv"]),
        (("tailora", "train", "config.y"), ["config.yaml"]),
        (("tailora", "train", "--rsl"), ["--rslora"]),
        (("tailora", "train", "--no-rsl"), ["--no-rslora"]),
        (("tailora", "completion", "f"), ["fish"]),
        (("tailora", "schema", "mod"), ["models"]),
        (("tailora", "nothing", "--"), []),
    ],
)
def test_bash_offers(scripts: dict[str, str], tmp_path: Path, words: tuple[str, ...], offered: list[str]) -> None:
    needs("bash")
    (tmp_path / "records.csv").touch()
    (tmp_path / "config.yaml").touch()
    assert ask_bash(scripts["bash"], tmp_path, *words) == offered


def test_bash_offers_every_command_and_every_flag(scripts: dict[str, str], tmp_path: Path) -> None:
    needs("bash")
    assert set(ask_bash(scripts["bash"], tmp_path, "tailora", "")) == {*COMMANDS, "--help", "--version"}
    for name in COMMANDS:
        flags = {f"--{field.replace('_', '-')}" for field in settings_class(name).model_fields}
        assert flags | {"--json", "--help"} <= set(ask_bash(scripts["bash"], tmp_path, "tailora", name, "--")), name


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tailora qua", {"quantize"}),
        ("tailora train --meth", {"--method"}),
        ("tailora train --method ", {"lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"}),
        ("tailora completion z", {"zsh"}),
    ],
)
def test_fish_offers(scripts: dict[str, str], tmp_path: Path, line: str, offered: set[str]) -> None:
    needs("fish")
    (tmp_path / "tailora.fish").write_text(scripts["fish"], encoding="utf-8")
    program = f"source tailora.fish; complete --do-complete '{line}'"
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path)}
    shown = subprocess.run(
        ["fish", "--no-config", "-c", program], cwd=tmp_path, env=home, capture_output=True, text=True, check=True
    )
    assert {text.split("\t")[0] for text in shown.stdout.splitlines()} == offered


def test_zsh_and_fish_accept_their_scripts(scripts: dict[str, str], tmp_path: Path) -> None:
    for shell in ("zsh", "fish", "bash"):
        if shutil.which(shell) is not None:
            path = tmp_path / f"tailora.{shell}"
            path.write_text(scripts[shell], encoding="utf-8")
            checked = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
            assert (checked.returncode, checked.stderr) == (0, ""), shell


def test_every_script_names_every_command_and_flag(scripts: dict[str, str]) -> None:
    for shell, script in scripts.items():
        for name in COMMANDS:
            assert name in script, (shell, name)
            for field in settings_class(name).model_fields:
                assert field.replace("_", "-") in script, (shell, name, field)
