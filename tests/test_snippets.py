"""Every code block of README and docs runs, offline and on `tiny`, page by page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from snippets import REASONS, ROOT, RUNNABLE, PageRunner, blocks, smaller, substituted

PAGES = [ROOT / "README.md", ROOT / "README.vi.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Pages that run within seconds are in the ordinary tests; the others in the slow ones.
ORDINARY = {"README.md", "README.vi.md", "tutorial.md"}
# Of all blocks that could run, at most this part is marked `not run`.
MOST_NOT_RUN = 0.35


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def marked(page: Path) -> object:
    return pytest.param(page, id=name(page), marks=() if page.name in ORDINARY else pytest.mark.slow)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of other people's packages, such as PEFT
@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = PageRunner(tmp_path)
    try:
        for block in blocks(page):
            if block.file or (block.language in RUNNABLE and block.not_run is None):
                runner.run(block)
    finally:
        runner.close()


@pytest.mark.slow
def test_the_tutorial_ends_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = PageRunner(tmp_path, shorten=False)
    try:
        for block in blocks(ROOT / "docs" / "tutorial.md"):
            if block.language in RUNNABLE:
                runner.run(block)
    finally:
        runner.close()
    loss = json.loads((tmp_path / "runs" / "teas" / "run.json").read_text("utf-8"))["validation_loss"]
    assert loss["before"] > 4
    assert loss["after"] < 0.2
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text("utf-8"))
    assert scores["slots"]["value"] < 0.03
    first = json.loads((tmp_path / "texts.jsonl").read_text("utf-8").splitlines()[0])
    assert "Early Mountain" in first["text"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_fenced_and_names_its_language(page: Path) -> None:
    for block in blocks(page):
        assert block.language not in {"", "indented"}, f"{block.place}: write ```bash, ```python, ```text …"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_in_python_and_yaml_can_be_read(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, block.place, "exec")
        elif block.language == "yaml":
            yaml.safe_load(block.text)


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    runnable = [block for page in PAGES for block in blocks(page) if block.language in RUNNABLE and not block.hidden]
    left_out = [block for block in runnable if block.not_run is not None]
    for block in left_out:
        assert re.match("|".join(REASONS), block.not_run or ""), f"{block.place}: begin with one of {REASONS}"
    print(*(f"{block.place}: {block.not_run}" for block in left_out), sep="\n")
    assert len(left_out) <= MOST_NOT_RUN * len(runnable)


def test_bases_and_data_that_need_the_network_are_substituted() -> None:
    assert substituted("tailora train --data e2e --base gpt2-medium --output smollm2-int8") == (
        "tailora train --data restaurants --base tiny --output smollm2-int8"
    )
    assert substituted('load("smollm2-135m"); e2e = 1; runs/e2e') == 'load("tiny"); e2e = 1; runs/e2e'


def test_commands_are_made_shorter() -> None:
    assert smaller(["train", "--max-steps", "1", "--batch-size", "32"]) == [
        *("train", "--max-steps", "1", "--batch-size", "8", "--valid-limit", "8")
    ]


def test_blocks_are_found_with_their_notes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n<!-- setup\nmkdir runs\n-->\n\n<!-- not run: network -->\n```bash\npip install x\n```\n\n"
        "<!-- file: a.yaml -->\n```yaml\nbase: tiny\n```\n\n- item\n\n  ```python\n  a = 1\n  ```\n\n"
        "    tailora lint a.csv\n"
    )
    found = blocks(page)
    assert [block.language for block in found] == ["bash", "bash", "yaml", "python", "indented"]
    assert [block.line for block in found] == [4, 9, 14, 20, 23]
    assert (found[0].hidden, found[1].not_run, found[2].file) == (True, "network", "a.yaml")
    assert found[3].text == "a = 1\n"
