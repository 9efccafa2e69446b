"""The command line: `tailora COMMAND [CONFIG.yaml] [--flags]`.

Only the command that was asked for is imported, so that help and mistakes are answered at once. Progress and tables go
to stderr; with `--json` the result is the one object on stdout.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tailora import __version__, commands
from tailora.commands import COMMANDS
from tailora.core import launch
from tailora.core.errors import EXIT_CODE, CheckError, MissingExtraError, SettingsError, UserError

# Dependencies that an environment made for serving alone does not have (requirements-serve.txt).
LEFT_OUT = {"matplotlib", "sacrebleu", "torch", "transformers"}
# Commands that torchrun can start in several processes.
SEVERAL_PROCESSES = ("train",)
READER_LEFT = 141  # what a shell reports for a program whose reader closed the pipe
SPINS = "1000"  # some tens of microseconds; the default is 300,000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 2 user error, 1 bug in Tailora, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a Windows code page cannot print every text
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    _share_cores()
    try:
        _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to go.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_LEFT
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)


def _share_cores() -> None:
    """Let threads of PyTorch that wait for one another sleep soon, so that other programs on the same cores cost less.

    GNU's OpenMP library, which PyTorch uses on Linux, reads the variable when it is loaded. By default, a thread waits
    in a loop for several milliseconds. If another program has one of the cores, it keeps the other core from the thread
    that it waits for. `benchmarks/shared_cores.py` measures both.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(overview())
    elif arguments[0] == "--version":
        print(f"tailora {__version__}")
    elif arguments[0] in COMMANDS:
        run_command(arguments[0], arguments[1:])
    else:
        close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "see `tailora --help`"
        raise SettingsError("no such command", where=arguments[0], hint=hint)


def overview() -> str:
    """Return the top-level help: the commands by purpose."""
    width = max(map(len, COMMANDS), default=0)
    lines = []
    for purpose in dict.fromkeys(command.purpose for command in COMMANDS.values()):
        members = {name: command for name, command in COMMANDS.items() if command.purpose == purpose}
        lines += ["", f"{purpose}:", *(f"  {name:<{width}}  {command.summary}" for name, command in members.items())]
    return (
        "usage: tailora COMMAND [CONFIG.yaml] [--flags]\n\n"
        "LoRA fine-tuning of small language models that turn records into text.\n"
        + "\n".join(lines)
        + "\n\n`tailora COMMAND --help` lists the flags of a command. CONFIG.yaml can set each of them:\n"
        "`batch_size: 16` is --batch-size 16. Flags override the file. `tailora --version` prints the version."
    )


def run_command(name: str, arguments: Sequence[str]) -> None:
    """Read a command's settings from its arguments, run it, and print its result if `--json` asks for it."""
    from tailora.core.flags import from_arguments, parser_for, read_again

    if launch.size() > 1 and name not in SEVERAL_PROCESSES:
        hint = f"start it without torchrun; only `tailora {SEVERAL_PROCESSES[0]}` runs in several processes"
        raise SettingsError(f"runs in one process, not in {launch.size()}", where=f"tailora {name}", hint=hint)
    cls = commands.settings_class(name)
    parser = parser_for(cls, prog=f"tailora {name}", description=f"{COMMANDS[name].summary}.")
    try:
        settings, others = from_arguments(cls, parser, arguments)
    except SystemExit:  # argparse has printed the help
        return
    again = read_again.set(lambda: from_arguments(cls, parser, arguments)[0])
    try:
        _print_result(commands.function(name), settings, as_json=others.json)
    finally:
        read_again.reset(again)


def _print_result(function: Callable[[Any], Any], settings: Any, *, as_json: bool) -> None:
    if not as_json:
        function(settings)
        return
    failed: CheckError | None = None
    with contextlib.redirect_stdout(sys.stderr):
        try:
            result = function(settings)
        except CheckError as error:  # its measurements are part of the result
            failed, result = error, {**error.result, "failed": str(error)}
    if launch.rank() == 0:
        print(json.dumps(result, ensure_ascii=False, allow_nan=False, default=_as_json))
    if failed is not None:
        raise failed


def _as_json(value: Any) -> Any:
    """Return a result's value as JSON can hold it: paths as text, other mappings as objects."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a result holds a {type(value).__name__}, which JSON cannot express")


def _report(error: BaseException) -> int:
    """Print what happened to stderr, in one line unless it is a bug, and return the exit code."""
    error = _user_error(error) or error
    code = next(code for kind, code in EXIT_CODE.items() if isinstance(error, kind))
    if isinstance(error, UserError):
        message = f"tailora: {error}"
    elif isinstance(error, KeyboardInterrupt):
        message = f"tailora: {error}" if str(error) else "tailora: interrupted"
    else:
        message = (
            f"{''.join(traceback.format_exception(error))}\n"
            "tailora: this is a bug in Tailora; please report it with the lines above, the command, and: "
            f"tailora {__version__}, Python {platform.python_version()}, {platform.platform()}"
        )
    if launch.reports():
        with contextlib.suppress(BrokenPipeError):
            print(message, file=sys.stderr)
    return code


def _user_error(error: BaseException) -> UserError | None:
    """Return what the user can fix: full memory, a full disk, a missing permission or package, an impossible path."""
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) in LEFT_OUT:
        hint = "install Tailora with all its dependencies: `pip install tailora`"
        return MissingExtraError(f"this command needs the package {package}, which is not installed", hint=hint)
    if _is_out_of_memory(error):
        reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
        hint = "free some memory, use a smaller model, or lower the sizes of batches, passes and caches"
        return UserError(f"there is not enough memory ({reason})", hint=hint)
    if not isinstance(error, OSError):
        return None
    full = error.errno in {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
    forbidden = (error.filename and isinstance(error, PermissionError)) or error.errno == errno.EROFS
    misplaced = error.filename and error.errno in {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
    if not (full or forbidden or misplaced):
        return None
    what = "free some space or " if full else "check its permissions or " if forbidden else ""
    hint = f"{what}choose another place"
    return UserError(str(error.strerror), where=error.filename, hint=hint)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of a GPU is full, which PyTorch and OpenVINO report as a `RuntimeError`."""
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in ("out of memory", "DefaultCPUAllocator", "std::bad_alloc"))
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


if __name__ == "__main__":
    sys.exit(main())
