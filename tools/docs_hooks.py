"""Hooks of `mkdocs.yml`: pages from outside `docs/`, the command reference, and links between them.

Files of the repository that docs link to (`OUTSIDE`) become pages of the site under their own paths. Links in any page
are resolved as on GitHub, from the file that holds them, and rewritten to the page of the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/RESULTS.md",
    "benchmarks/results.json",
    "examples/NLG/EXECUTION_SUMMARY.md",
    "examples/NLG/RUN_DEMO.md",
)
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
COMMANDS = "reference/commands.md"
MERMAID = ROOT / ".docs-cache" / "mermaid.min.js"
_FENCE = re.compile(r"^ *(```+).*?^ *\1`* *$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^<!--.*?-->\n?", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=[)\s])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draw diagrams with the local copy of Mermaid if there is one (`make docs` fetches it)."""
    if MERMAID.is_file():
        config.extra_javascript.append("assets/mermaid.min.js")
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not in `docs/`."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for notebook in NOTEBOOKS:
        path = notebook.with_suffix(".md").relative_to(ROOT).as_posix()
        files.append(File.generated(config, path, content=notebook_page(notebook)))
    files.append(File.generated(config, COMMANDS, content=command_reference()))
    if MERMAID.is_file():
        files.append(File.generated(config, "assets/mermaid.min.js", abs_src_path=str(MERMAID)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links to the site's paths, and remove the comments that prepare snippets for their test."""
    source = page.file.src_uri
    place = source if (ROOT / source).is_file() else f"docs/{source}"
    return "".join(
        part if is_code else _LINK.sub(lambda link: site_link(link, place), _COMMENT.sub("", part))
        for is_code, part in _split_code(markdown)
    )


def site_link(link: re.Match[str], place: str) -> str:
    """A link's target as the site has it.

    Args:
        link: of `_LINK`.
        place: path of the file with the link, from the root of the repository.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link[1]))
    here = posixpath.dirname(place.removeprefix("docs/"))
    if target == "README.md":
        target = "docs/index.md"
    if target.endswith(".ipynb"):
        target = target.replace(".ipynb", ".md")
    elif not target.startswith("docs/") and target not in OUTSIDE:
        return link[0]
    return posixpath.relpath(target.removeprefix("docs/"), here or ".") + (link[2] or "")


def command_reference() -> str:
    """One page with every command and its flags, from the settings classes."""
    from tailora.commands import COMMANDS, settings_class
    from tailora.core.flags import parser_for

    parts = [
        "# Commands\n\nEvery command with its flags, as `tailora COMMAND --help` prints them. Each flag can be a line "
        "of a YAML file (`tailora train train.yaml`), written with `_` instead of `-`; flags override the file. "
        "`--json` prints the result as one JSON object on stdout. Exit codes: 0 done, 2 an error that you can fix, "
        "1 a bug in Tailora, 130 interrupted.\n"
    ]
    for purpose in dict.fromkeys(command.purpose for command in COMMANDS.values()):
        parts.append(f"## {purpose[:1].upper()}{purpose[1:]}\n")
        for name, command in COMMANDS.items():
            if command.purpose == purpose:
                parts.append(f"### tailora {name} {{ #{name} }}\n\n{command.summary.rstrip('.')}.\n")
                parts.extend(_tables(parser_for(settings_class(name), prog=f"tailora {name}", description="")))
    return "\n".join(parts)


def notebook_page(path: Path) -> str:
    """A notebook as a page: its text, its code, and the results it was saved with."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                parts.append(f'<img alt="" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">')
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _tables(parser: Any) -> Iterator[str]:
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.option_strings and action.dest != "help"]
        if not actions:
            continue
        heading = group.title or ""
        if heading != "options":
            yield f"**{heading[:1].upper()}{heading[1:]}**\n"
        yield "| flag | value | meaning |\n|---|---|---|"
        yield "\n".join(_row(action) for action in actions) + "\n"


def _row(action: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings)
    value = ", ".join(f"`{word}`" for word in (action.metavar or "").split("|") if word)
    meaning = (action.help or "").replace("%%", "%").replace("|", r"\|").replace("<", "&lt;")
    return f"| {flags} | {value} | {meaning} |"


def _split_code(markdown: str) -> Iterator[tuple[bool, str]]:
    """Parts of a page, and whether each is a fenced block. Fences within comments count as parts of the comment."""
    end = 0
    while match := re.compile(r"^<!--|^ *```", re.MULTILINE).search(markdown, end):
        if match[0] == "<!--":
            close = markdown.index("-->", match.end()) + 3
            close += markdown[close : close + 1] == "\n"
            yield False, markdown[end : match.start()] + markdown[match.start() : close]
            end = close
        else:
            fence = _FENCE.match(markdown, match.start())
            assert fence is not None, markdown[match.start() :][:60]
            yield False, markdown[end : fence.start()]
            yield True, fence[0]
            end = fence.end()
    yield False, markdown[end:]
