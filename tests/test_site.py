"""The documentation site: links and anchors of every page, the navigation, and the site that MkDocs builds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from snippets import ROOT, without_code

PAGES = [
    *(ROOT / name for name in ("README.md", "README.vi.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
# Pages that exist only in the built site.
BUILT = {ROOT / "docs" / "reference" / "commands.md"}
NOTEBOOK_PAGES = {
    path.with_suffix(".md").relative_to(ROOT).as_posix() for path in ROOT.glob("examples/notebooks/*.ipynb")
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.+?)\s*$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {slug(title) for title in titles}


def slug(title: str) -> str:
    """A heading's anchor: its letters, digits, dashes and underscores, in lower case, with dashes for spaces."""
    plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", title)
    words = unicodedata.normalize("NFKC", plain).lower().strip()
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", words))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_exist(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if file in BUILT:
            continue
        assert file.exists(), f"{name(page)} links to {target}, which does not exist"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name(page)} links to {target}: {path or page.name} has no such heading"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(re.sub(r"!!python/name:\S+", "python", text))
    in_navigation = set(re.findall(r"[\w/.-]+\.md", str(config["nav"])))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in [*(ROOT / "docs").rglob("*.md"), *BUILT]}
    assert pages - in_navigation == set(), "add these pages to `nav` in mkdocs.yml"
    others = in_navigation - pages - NOTEBOOK_PAGES
    assert {page for page in others if not (ROOT / page).is_file()} == set(), "these do not exist"
    assert in_navigation >= NOTEBOOK_PAGES


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="MkDocs is not installed; pip install 'tailora[docs]'")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link)[^>]+(src|href)=\"https?://", home), "the site needs the network"
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "--learning-rate" in commands
