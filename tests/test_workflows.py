"""The GitHub workflows: every step is a make target that exists, and they cover the Pythons that the package names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
# What a runner lacks before the first target can run.
PREPARATIONS = {"choco install make --yes --no-progress"}

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the workflows are not part of this copy of the source")


def workflow(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))
    return loaded


WORKFLOWS = {path.stem: workflow(path.stem) for path in sorted(FOLDER.glob("*.yml"))}
JOBS = [(name, job) for name, content in WORKFLOWS.items() for job in content["jobs"]]


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    return set(phony[1].split())


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_every_step_of_a_job_is_a_make_target(name: str, job: str) -> None:
    commands = [step["run"] for step in WORKFLOWS[name]["jobs"][job]["steps"] if "run" in step]
    for command in commands:
        if command not in PREPARATIONS:
            target = re.fullmatch(r"make ([\w-]+)( PYTHON=python)?", command)
            assert target is not None, f"{name}.yml, {job}: {command!r} is not one make target"
            assert target[1] in make_targets(), f"{name}.yml, {job}: make has no target {target[1]}"


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_every_job_has_a_time_limit_and_few_permissions(name: str, job: str) -> None:
    content = WORKFLOWS[name]
    assert content["permissions"] == {"contents": "read"}
    assert content["jobs"][job]["timeout-minutes"] <= 120


def test_the_pythons_of_the_classifiers_are_tested_and_get_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {text.rpartition(" ")[2] for text in project["classifiers"] if re.search(r":: 3\.\d+$", text)}
    tested = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert named == set(WORKFLOWS["build"]["jobs"]["wheel"]["strategy"]["matrix"]["python"])
    assert named <= set(tested)
