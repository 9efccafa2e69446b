"""The command line: `tailora VERB [CONFIG.yaml] [--flags]`.

A verb is a settings class and a function from its settings to a result. Only the verb that was asked for is
imported, so that help and mistakes are answered at once. Progress and tables go to stderr; with `--json` the
result is the one object on stdout.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tailora import __version__
from tailora.core.errors import EXIT_CODE, CheckError, MissingExtraError, SettingsError, UserError

# Dependencies that an environment made for serving alone does not have (requirements-serve.txt).
LEFT_OUT = {"matplotlib", "sacrebleu", "torch", "transformers"}
READER_LEFT = 141  # what a shell reports for a program whose reader closed the pipe


class Verb(NamedTuple):
    """What a verb does in one line, and where its settings class and its function stand, as "module:name"."""

    summary: str
    settings: str
    function: str


VERBS: dict[str, Verb] = {
    "quickstart": Verb(
        "Train, score and merge an adapter on the bundled model, offline, in under three minutes",
        "tailora.commands.quickstart:QuickstartSettings",
        "tailora.commands.quickstart:run",
    ),
    "train": Verb(
        "Train an adapter, or a whole model, on records with texts",
        "tailora.training.settings:TrainSettings",
        "tailora.training.run:run",
    ),
    "generate": Verb(
        "Write texts for records or prompts with a base model and an adapter",
        "tailora.commands.generate:GenerateSettings",
        "tailora.commands.generate:run",
    ),
    "evaluate": Verb(
        "Score texts against references and facts, with intervals and a report",
        "tailora.commands.evaluate:EvaluateSettings",
        "tailora.commands.evaluate:run",
    ),
    "compare": Verb(
        "Measure LoRA beside full fine-tuning, biases only and the top two blocks, each at its best learning rate",
        "tailora.commands.compare:CompareSettings",
        "tailora.commands.compare:run",
    ),
    "tune": Verb(
        "Look for the training settings that validate best, in any number of processes",
        "tailora.commands.tune:TuneSettings",
        "tailora.commands.tune:run",
    ),
    "serve": Verb(
        "Serve a base model and its adapters over HTTP, in the words of OpenAI's API and for records",
        "tailora.serve.settings:ServeSettings",
        "tailora.serve:run",
    ),
    "key": Verb(
        "Make an API key for `tailora serve`",
        "tailora.serve.keys:KeySettings",
        "tailora.serve.keys:run",
    ),
    "merge": Verb(
        "Merge an adapter into its base model", "tailora.commands.merge:MergeSettings", "tailora.commands.merge:run"
    ),
    "convert": Verb(
        "Write an adapter in the form that PEFT, loralib, llama.cpp or OpenVINO GenAI reads",
        "tailora.commands.convert:ConvertSettings",
        "tailora.commands.convert:run",
    ),
    "quantize": Verb(
        "Write a model in 8 or 16 bits, an adapter beside it or merged in, and say what that cost",
        "tailora.commands.quantize:QuantizeSettings",
        "tailora.commands.quantize:run",
    ),
    "verify": Verb(
        "Hold an adapter or a merged model against its base, and refuse what changes nothing or drifted",
        "tailora.commands.verify:VerifySettings",
        "tailora.commands.verify:run",
    ),
    "lint": Verb(
        "Say what a data file holds, and fail on what looks wrong in it",
        "tailora.commands.lint:LintSettings",
        "tailora.commands.lint:run",
    ),
    "models": Verb(
        "List the base models known by name", "tailora.commands.models:ModelsSettings", "tailora.commands.models:run"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 2 the user's mistake, 1 our bug, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a Windows code page cannot print every text
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
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
        return _tell(error)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(overview())
    elif arguments[0] == "--version":
        print(f"tailora {__version__}")
    elif arguments[0] in VERBS:
        run_verb(arguments[0], VERBS[arguments[0]], arguments[1:])
    else:
        close = difflib.get_close_matches(arguments[0], VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else "see `tailora --help`"
        raise SettingsError("no such verb", where=arguments[0], hint=hint)


def overview() -> str:
    """The top-level help."""
    width = max(map(len, VERBS), default=0)
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: tailora VERB [CONFIG.yaml] [--flags]\n\n"
        "LoRA fine-tuning of small language models that turn records into text.\n\n"
        f"verbs:\n{verbs}\n\n"
        "`tailora VERB --help` lists a verb's flags. Every flag can stand in CONFIG.yaml, with _ for -.\n"
        "`tailora --version` prints the version."
    )


def run_verb(name: str, verb: Verb, arguments: Sequence[str]) -> None:
    """Read a verb's settings from its arguments, run it, and print its result when `--json` asks for it."""
    from tailora.core.flags import from_arguments, parser_for

    settings_class = _load(verb.settings)
    parser = parser_for(settings_class, prog=f"tailora {name}", description=verb.summary)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    try:
        settings, others = from_arguments(settings_class, parser, arguments)
    except SystemExit:  # argparse has printed the help
        return
    function = _load(verb.function)
    if not others.json:
        function(settings)
        return
    failed: CheckError | None = None
    with contextlib.redirect_stdout(sys.stderr):
        try:
            result = function(settings)
        except CheckError as error:  # what was measured is told all the same
            failed, result = error, {**error.result, "failed": str(error)}
    print(json.dumps(result, ensure_ascii=False, allow_nan=False, default=_as_json))
    if failed is not None:
        raise failed


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _as_json(value: Any) -> Any:
    """What JSON has no word for and a result may hold: paths as text, other mappings as objects."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a result holds a {type(value).__name__}, which JSON cannot express")


def _tell(error: BaseException) -> int:
    """Say on stderr what happened, in one line unless it is our bug, and give the exit code."""
    error = _users(error) or error
    code = next(code for kind, code in EXIT_CODE.items() if isinstance(error, kind))
    if isinstance(error, UserError):
        message = f"tailora: {error}"
    elif isinstance(error, KeyboardInterrupt):
        message = "tailora: interrupted"
    else:
        message = (
            f"{''.join(traceback.format_exception(error))}\n"
            "tailora: this is a bug of ours; please report it with the lines above, the command, and: "
            f"tailora {__version__}, Python {platform.python_version()}, {platform.platform()}"
        )
    with contextlib.suppress(BrokenPipeError):
        print(message, file=sys.stderr)
    return code


def _users(error: BaseException) -> UserError | None:
    """The mistake behind what the system refused: a full disk, a file that may not be written, no path that can be."""
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) in LEFT_OUT:
        hint = "install Tailora with all its dependencies: `pip install tailora`"
        return MissingExtraError(f"this command needs the package {package}, which is not installed", hint=hint)
    if not isinstance(error, OSError):
        return None
    full = error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
    forbidden = (error.filename and isinstance(error, PermissionError)) or error.errno == errno.EROFS
    misplaced = error.filename and error.errno in {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
    if not (full or forbidden or misplaced):
        return None
    what = "free some space or " if full else "check its permissions or " if forbidden else ""
    hint = f"{what}name another place"
    return UserError(str(error.strerror), where=error.filename, hint=hint)


if __name__ == "__main__":
    sys.exit(main())
