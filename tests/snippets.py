"""Code blocks of the Markdown pages, and a folder in which the blocks of one page run one after the other.

CONTRIBUTING.md ("Snippets in the docs") describes the convention for authors.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tailora
from tailora.cli import main

ROOT = Path(__file__).parents[1]
RUNNABLE = ("bash", "console", "python")
REASONS = ("network", "GPU", "hub model", "hours", "Windows", "other program", "your files")
# The bases and the data that pages name but tests cannot have, and what takes their place.
BASES = re.compile(r"(?<![\w/.-])(smollm2-135m|distilgpt2|gpt2(-medium|-large|-xl)?)(?![\w/.-])")
DATA = re.compile(r"""(--data |--input |tailora lint |\bdata: |\bdata=["']|read_records\(["'])e2e(?![\w/.-])""")
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
TINY = Path(tailora.__file__).parent / "models" / "tiny"
ADDRESS = "127.0.0.1:8000"
# Numbers that keep a command short: each caps the flag's value, or is added where the flag is missing.
SMALLER = {
    "quickstart": {"--epochs": 1, "--limit": 40},
    "train": {"--max-steps": 8, "--batch-size": 8, "--valid-limit": 8},
    "tune": {"--trials": 2, "--max-steps": 2, "--batch-size": 4, "--valid-limit": 4},
    "compare": {"--limit": 8, "--batch-size": 4, "--valid-limit": 4, "--test-limit": 4, "--max-new-tokens": 4},
    "generate": {"--max-new-tokens": 8},
    "evaluate": {"--max-new-tokens": 8, "--draws": 100},
}
_COMMENT = re.compile(r"\s*<!--\s*(not run|file|exit):\s*(.*?)\s*-->\s*$")
_FENCE = re.compile(r"(?P<indent>\s*)(?P<fence>```+)\s*(?P<language>[\w-]*)(?P<rest>.*)$")
_SHELL = re.compile(r"""[|&;<>$`*]""")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        page: the file it is in.
        line: the number of its first line of code, from 1.
        language: the word after the fence; "" if there is none, "indented" for a block without a fence.
        text: its code, without the indentation of the fence.
        not_run: the reason why the test does not run it, or None.
        file: the name of the file it is saved as before the next block runs, or None.
        exit_code: what its last command returns.
        hidden: whether it is a `<!-- setup … -->` comment, which readers do not see.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None = None
    file: str | None = None
    exit_code: int = 0
    hidden: bool = False

    @property
    def place(self) -> str:
        """Where to find it, for messages."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return list(_blocks(page, lines))


def _blocks(page: Path, lines: Sequence[str]) -> Iterator[Block]:
    notes: dict[str, str] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if note := _COMMENT.match(line):
            notes[note[1]] = note[2]
        elif setup := re.fullmatch(r"<!-- setup( python)?(?:: (\S+))?", line):
            end = lines.index("-->", number)
            code = "\n".join(lines[number:end]) + "\n"
            language = "text" if setup[2] else "python" if setup[1] else "bash"
            yield Block(page, number + 1, language, code, file=setup[2], hidden=True)
            number = end + 1
        elif fence := _FENCE.match(line):
            end = number
            while not lines[end].strip().startswith(fence["fence"]):
                end += 1
            code = "\n".join(code_line.removeprefix(fence["indent"]) for code_line in lines[number:end]) + "\n"
            block = Block(page, number + 1, fence["language"], code, notes.get("not run"), notes.get("file"))
            yield replace(block, exit_code=int(notes.get("exit", 0)))
            number, notes = end + 1, {}
        elif line.startswith("    ") and line.strip() and not lines[number - 2].strip():
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(page, number, "indented", "\n".join(code_line[4:] for code_line in lines[number - 1 : end]))
            number = end
        elif line.strip():
            notes = {}


def without_code(text: str) -> str:
    """A page's text without its code blocks, comments and inline code."""
    text = re.sub(r"^<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ *(```+).*?^ *\1 *$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)


def commands(block: Block) -> list[str]:
    """The commands of a shell block, one a line: comments removed, lines that end in a backslash joined."""
    text = block.text
    if block.language == "console":
        text = "\n".join(re.findall(r"^\$ (.*(?:\\\n.*)*)", text, re.MULTILINE))
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


class PageRunner:
    """Runs the blocks of one page in one folder: Python blocks share their names, a server stays until the page ends.

    Args:
        folder: an empty folder, which is the current one while blocks run.
        shorten: whether SMALLER limits the commands.
    """

    def __init__(self, folder: Path, shorten: bool = True) -> None:
        self.folder, self.shorten = folder, shorten
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.server: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.programs = folder / ".programs"
        self.programs.mkdir()
        for name, start in {"tailora": "-m tailora ", "python": "", "torchrun": "-m torch.distributed.run "}.items():
            (self.programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {start}"$@"\n')
            (self.programs / name).chmod(0o755)
        (folder / "benchmarks").symlink_to(ROOT / "benchmarks")

    def run(self, block: Block) -> None:
        """Save or run one block; fail with its place when it does not end as the page says."""
        text = substituted(block.text).replace(ADDRESS, f"127.0.0.1:{self.port}")
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif block.language == "python":
            # Compiled under the page's name and with its line numbers, so that a traceback names them.
            code = compile("\n" * (block.line - 1) + text, str(block.page), "exec", dont_inherit=True)
            exec(code, self.names)
        else:
            self._run_shell(replace(block, text=text))

    def close(self) -> None:
        """Stop the server, if one was started."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait(60)
            self.server = None

    def _run_shell(self, block: Block) -> None:
        # The lines of a here-document belong together.
        lines = [block.text] if "<<" in block.text else commands(block)
        for number, line in enumerate(lines, start=1):
            expected = block.exit_code if number == len(lines) else 0
            code = self._run_line(line)
            assert code == expected, f"{block.place}: exit code {code} instead of {expected}: {line}"

    def _run_line(self, line: str) -> int:
        if re.match(r"(\S*/)?pip (install|download)\b", line):
            return 0
        plain = not _SHELL.search(re.sub(r"'[^']*'|\"[^\"$`]*\"", "", line))
        if line.startswith("tailora ") and plain:
            arguments = shlex.split(line, comments=True)[1:]
            arguments = smaller(arguments) if self.shorten else arguments
            return self._serve(arguments) if arguments[0] == "serve" else main(arguments)
        environment = {**os.environ, "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(["bash", "-euo", "pipefail", "-c", line], env=environment, timeout=240).returncode

    def _serve(self, arguments: Sequence[str]) -> int:
        """Start a server beside the following blocks, in place of the one before, and wait until it answers."""
        self.close()
        command = [sys.executable, "-m", "tailora", *_with_flag(arguments, "--port", str(self.port))]
        self.server = subprocess.Popen(command)
        end = time.monotonic() + 90
        while time.monotonic() < end and self.server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=5).close()
                return 0
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        return self.server.poll() or -1


def substituted(text: str) -> str:
    """The text with `tiny` and `restaurants` in place of the bases and the data that need the network."""
    text = text.replace(HUB_NAME, str(TINY))
    return DATA.sub(r"\1restaurants", BASES.sub("tiny", text))


def smaller(arguments: Sequence[str]) -> list[str]:
    """The arguments of `tailora` with the numbers of SMALLER as upper limits."""
    result = list(arguments)
    limits = {} if "--texts" in result else SMALLER.get(result[0], {})
    for flag, most in limits.items():
        if flag in result:
            value = result[result.index(flag) + 1]
            most = min(most, int(value)) if value.isdigit() else most
        result = _with_flag(result, flag, str(most))
    return result


def _with_flag(arguments: Sequence[str], flag: str, value: str) -> list[str]:
    result = list(arguments)
    if flag in result:
        result[result.index(flag) + 1] = value
        return result
    return [*result, flag, value]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
