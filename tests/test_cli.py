"""The command line: what goes to which stream, exit codes, one-line mistakes, and answers without delay."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailora import __version__, cli, commands
from tailora.core.errors import DataError
from tailora.core.flags import read_again
from tailora.core.settings import Settings


class ToySettings(Settings):
    """Settings of the toy command."""

    times: int = 1
    """How often."""


RESULT = {"texts": ["Phở", None], "path": Path("runs") / "one"}


def chatty(settings: ToySettings) -> dict[str, Any]:
    """A command that prints where it should not, and says so where it should."""
    for _ in range(settings.times):
        print("a library's remark")
    print("a table", file=sys.stderr)
    return RESULT


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[ToySettings], Any]], None]:
    """Put one command, `toy`, in place of the table, with the function it is given."""

    def place(function: Callable[[ToySettings], Any]) -> None:
        monkeypatch.setattr(cli, "COMMANDS", {"toy": commands.Command("Play", "Do a thing")})
        monkeypatch.setattr(commands, "settings_class", {"toy": ToySettings}.__getitem__)
        monkeypatch.setattr(commands, "function", {"toy": function}.__getitem__)

    return place


def raising(error: BaseException) -> Callable[[ToySettings], Any]:
    def run(settings: ToySettings) -> Any:
        raise error

    return run


def test_json_is_the_only_thing_on_stdout(toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    toy(chatty)
    assert cli.main(["toy", "--json", "--times", "2"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"texts": ["Phở", None], "path": str(Path("runs") / "one")}
    assert out.count("\n") == 1
    assert err.count("a library's remark") == 2


def test_without_json_the_result_is_not_printed(toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    toy(chatty)
    assert cli.main(["toy"]) == 0
    assert capsys.readouterr() == ("a library's remark\n", "a table\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["toi"], "tailora: toi: no such command; did you mean toy?"),
        (["zzz"], "tailora: zzz: no such command; see `tailora --help`"),
        (["toy", "--tims", "3"], "tailora: --tims: no such flag; did you mean --times?"),
        (["toy", "--times", "x"], "tailora: --times: must be a whole number, not 'x'"),
        (["toy", "none.yaml"], "tailora: none.yaml: there is no such file; check the path"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(
    toy: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    toy(chatty)
    assert cli.main([*arguments, "--json"] if len(arguments) > 1 else arguments) == 2
    assert capsys.readouterr() == ("", f"{line}\n")


LESS = "free some memory, use a smaller model, or lower the sizes of batches, passes and caches"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            DataError("the text is empty", where="x.csv:3", hint="drop the row"),
            "x.csv:3: the text is empty; drop the row",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.bin"),
            "out.bin: No space left on device; free some space or choose another place",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/x"),
            "/root/x: Permission denied; check its permissions or choose another place",
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/x"), "f/x: Not a directory; choose another place"),
        (MemoryError(), f"there is not enough memory (MemoryError); {LESS}"),
        (MemoryError("Unable to allocate 9 GiB"), f"there is not enough memory (Unable to allocate 9 GiB); {LESS}"),
        (OSError(errno.ENOMEM, "No room"), f"there is not enough memory ([Errno {errno.ENOMEM}] No room); {LESS}"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 MiB.\nmore"),
            f"there is not enough memory (CUDA out of memory. Tried to allocate 2 MiB); {LESS}",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            f"there is not enough memory (DefaultCPUAllocator: can't allocate memory); {LESS}",
        ),
    ],
)
def test_what_the_user_can_fix_exits_with_2(
    toy: Any, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    toy(raising(error))
    assert cli.main(["toy", "--json"]) == 2
    assert capsys.readouterr() == ("", f"tailora: {line}\n")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_an_argument_without_its_flag_gets_the_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cls = commands.settings_class(name)
    if cls.first is not None:
        pytest.skip("takes arguments without a flag")
    assert cli.main([name, "my file.csv"]) == 2
    wanted = "see `tailora" if cls.main is None else f"give it by its flag: --{cls.main} 'my file.csv'"
    assert wanted in capsys.readouterr().err
    assert cls.main in cls.model_fields or name in ("quickstart", "models", "key")


def test_ctrl_c_exits_with_130_and_one_line(toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    toy(raising(KeyboardInterrupt()))
    assert cli.main(["toy"]) == 130
    assert capsys.readouterr() == ("", "tailora: interrupted\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), FileNotFoundError(2, "gone", "ours"), OSError("odd")])
def test_a_bug_shows_its_trace_and_asks_for_a_report(
    toy: Any, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    toy(raising(error))
    assert cli.main(["toy", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" in err
    assert type(error).__name__ in err
    assert "please report it" in err
    assert __version__ in err


@pytest.mark.parametrize("result", [{"loss": float("nan")}, {"tensor": object()}])
def test_a_result_that_json_cannot_hold_is_our_bug(
    toy: Any, capsys: pytest.CaptureFixture[str], result: dict[str, Any]
) -> None:
    toy(lambda settings: result)
    assert cli.main(["toy", "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_help_of_a_command(toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    toy(raising(AssertionError("help runs nothing")))
    assert cli.main(["toy", "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    usage = "usage: tailora toy [CONFIG.yaml] [--flags]"
    for text in (usage, "Do a thing.", "--times N", "How often. (default: 1)", "--json"):
        assert text in out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(name in out and command.summary in out for name, command in cli.COMMANDS.items())


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr() == (f"tailora {__version__}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_a_settings_class_and_a_function(name: str) -> None:
    assert issubclass(commands.settings_class(name), Settings)
    assert callable(commands.function(name))


def test_every_file_of_a_command_is_in_the_table() -> None:
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    assert modules == {name.replace("-", "_") for name in cli.COMMANDS}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_summaries_fit_on_a_line(name: str) -> None:
    summary = cli.COMMANDS[name].summary
    assert summary[0].isupper()
    assert not summary.endswith(".")
    assert len(f"  {name:<10}  {summary}") <= 100


def test_texts_that_a_code_page_lacks_are_still_printed(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    toy(lambda settings: {"text": "Phở \udcff"})
    assert cli.main(["toy", "--json"]) == 0
    assert raw.getvalue().decode("utf-8").strip() == '{"text": "Phở \\udcff"}'


def start(*arguments: str, **keywords: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tailora", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords)


def test_a_reader_that_leaves_early_gets_no_complaint() -> None:
    process = start("--help")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait() == cli.READER_LEFT


def test_help_and_mistakes_load_nothing_heavy() -> None:
    program = (
        "import sys; from tailora.cli import main; main(['--help']); main(['--version']); main(['zzz'])\n"
        "print(sorted({'torch', 'transformers', 'pydantic', 'rich', 'numpy', 'yaml'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_the_help_of_a_command_does_not_load_a_framework(command: str) -> None:
    program = (
        f"import sys; from tailora.cli import main; main(['{command}', '--help'])\n"
        "print(sorted({'torch', 'transformers', 'openvino', 'fastapi', 'optuna', 'ray'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch uses GNU's OpenMP library on Linux")
@pytest.mark.parametrize(
    ("own", "spins"),
    [
        ({}, "GOMP_SPINCOUNT = '1000'"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
    ids=["default", "spin count", "wait policy"],
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(own: dict[str, str], spins: str | None) -> None:
    program = "from tailora.cli import main; main(['--version']); import torch"
    kept = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    environment = kept | own | {"OMP_DISPLAY_ENV": "VERBOSE"}  # the library reports its settings when it is loaded
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "OMP_WAIT_POLICY = " in done.stderr
    assert (spins in done.stderr) if spins else ("GOMP_SPINCOUNT = '1000'" not in done.stderr)


def test_the_installed_command_is_this_one() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="tailora")
    assert script.load() is cli.main


@pytest.mark.parametrize(("command", "field"), [("plot", "runs"), ("schema", "command"), ("completion", "shell")])
def test_a_missing_value_without_a_flag_is_asked_for_as_such(
    command: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command]) == 2
    assert f"tailora: --{field}: is missing; give it after the command" in capsys.readouterr().err


def test_a_command_that_has_ended_leaves_no_settings_to_read_again() -> None:
    """A server that Python starts afterwards would read those of the command when it is reloaded."""
    assert cli.main(["models", "--json"]) == 0
    assert read_again.get() is None
