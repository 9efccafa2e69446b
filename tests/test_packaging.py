"""What is installed: the locked list for serving, and Tailora without PyTorch and transformers."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOT_FOR_SERVING = ("torch", "transformers", "matplotlib", "sacrebleu")
# Requirements of the packages in the list that serving works without: usage reports that OpenVINO sends.
LEFT_OUT = {"openvino-telemetry"}


def pins(name: str) -> dict[str, str]:
    """The versions in a list of pinned packages, by normalised name."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): version for package, version in pairs}


def test_the_list_for_serving_has_the_versions_of_the_constraints() -> None:
    constraints = pins("constraints.txt")
    assert {name: constraints.get(name) for name in pins("requirements-serve.txt")} == pins("requirements-serve.txt")


def test_the_list_for_serving_is_complete() -> None:
    locked = pins("requirements-serve.txt").keys()
    for package in locked:
        requirements = [Requirement(text) for text in importlib.metadata.requires(package) or []]
        needed = {
            canonicalize_name(requirement.name)
            for requirement in requirements
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        }
        assert needed <= locked | LEFT_OUT, package


def test_the_list_for_serving_has_what_the_package_requires_but_what_training_needs() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = {
        canonicalize_name(name)
        for block in re.findall(r"^(?:dependencies|serve) = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
        for name in re.findall(r'^    "([\w-]+)', block, re.MULTILINE)
    }
    assert len(required) == 16
    assert required - pins("requirements-serve.txt").keys() == set(NOT_FOR_SERVING)


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that finds none of the packages that serving does without."""
    program = f"import sys; sys.modules.update(dict.fromkeys({NOT_FOR_SERVING})); from tailora.cli import main; "
    program += f"sys.exit(main({list(arguments)}))"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=False
    )


def test_texts_are_written_without_torch(tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"facts": {"name": "Blue Spice"}}\n', encoding="utf-8")
    output = tmp_path / "outputs.jsonl"
    arguments = ["generate", "--base", "tiny", "--input", str(tmp_path / "new.jsonl"), "--output", str(output)]
    done = without_torch(*arguments, "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_text(encoding="utf-8"))["text"]


@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        (["train", "--data", "restaurants", "--base", "tiny"], "torch"),
        (["generate", "--base", "tiny", "--input", "restaurants", "--split", "test", "--backend", "torch"], "torch"),
    ],
    ids=["train", "generate on torch"],
)
def test_a_missing_package_is_named(arguments: list[str], package: str) -> None:
    done = without_torch(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"tailora: this command needs the package {package}, which is not installed; "
        "install Tailora with all its dependencies: `pip install tailora`"
    )


def test_the_image_is_made_by_the_tested_step() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    steps = re.findall(r"pip install (.+?)(?: \\)?$", text, re.MULTILINE)
    assert [step.replace("--no-cache-dir ", "") for step in steps] == [
        "--no-deps -r requirements-serve.txt",
        "--no-deps .",
    ]
    assert re.search(r"^USER (?!root)\w+", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
