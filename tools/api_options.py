"""Writes `src/tailora/api/options.py`: the keyword arguments of the Python API, made of the settings classes.

python tools/api_options.py          # write the file
python tools/api_options.py --check  # fail if it is not up to date
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from tailora.commands.clean import CleanSettings
from tailora.commands.compare import CompareSettings
from tailora.commands.convert import ConvertSettings
from tailora.commands.learning_curve import LearningCurveSettings
from tailora.commands.lint import LintSettings
from tailora.commands.merge import MergeSettings
from tailora.commands.quantize import QuantizeSettings
from tailora.commands.train import TrainSettings
from tailora.commands.tune import TuneSettings
from tailora.commands.verify import VerifySettings
from tailora.core.settings import Settings
from tailora.data.reading import ReadingSettings
from tailora.inference.decoding_settings import DecodingSettings
from tailora.inference.model_settings import ModelSettings

TARGET = Path(__file__).parents[1] / "src" / "tailora" / "api" / "options.py"
OPTIONS: dict[str, tuple[type[Settings], set[str]]] = {
    "ReadingOptions": (ReadingSettings, set()),
    "TrainOptions": (TrainSettings, {"data", "valid"}),
    "EngineOptions": (ModelSettings, {"adapter", "base"}),
    "DecodingOptions": (DecodingSettings, set()),
    "MergeOptions": (MergeSettings, {"adapter", "output"}),
    "ConvertOptions": (ConvertSettings, {"adapter", "output"}),
    "QuantizeOptions": (QuantizeSettings, {"output"}),
    "VerifyOptions": (VerifySettings, set()),
    "CompareOptions": (CompareSettings, {"data", "valid"}),
    "TuneOptions": (TuneSettings, {"data", "valid"}),
    "LearningCurveOptions": (LearningCurveSettings, {"data", "valid"}),
    "LintOptions": (LintSettings, {"data"}),
    "CleanOptions": (CleanSettings, {"data", "output"}),
}
"""Each class of options with the settings that it is made of, and those of their fields that are parameters."""
HEAD = '''"""Keyword arguments of the Python API: the settings of the commands, with their names, defaults and checks.

Made by `tools/api_options.py` from the settings classes; do not edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict
'''


def written() -> str:
    """The module's source."""
    return HEAD + "".join(_class(name, *parts) for name, parts in OPTIONS.items())


def _class(name: str, settings: type[Settings], left_out: set[str]) -> str:
    fields = {field: info for field, info in settings.model_fields.items() if field not in left_out}
    lines = [f"\n\nclass {name}(TypedDict, total=False):"]
    lines.append(f'    """Keyword arguments made of `{settings.__name__}`."""\n')
    for field, info in fields.items():
        lines.append(f"    {field}: {_type(info.annotation)}")
        lines.append(textwrap.indent(textwrap.fill(f'"""{_sentence(info.description)}"""', 116), "    "))
    return "\n".join(lines) + "\n"


def _sentence(description: str | None) -> str:
    return " ".join((description or "").split()).replace("\\", "\\\\")


def _type(annotation: Any) -> str:
    """What a caller may give for a field."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        return " | ".join(dict.fromkeys(_type(arm) for arm in arguments))
    if origin is Literal:
        return f"Literal[{', '.join(map(_quoted, arguments))}]"
    if origin in {tuple, list}:
        item = "str" if get_origin(arguments[0]) is Literal else _type(arguments[0])
        return f"Sequence[{item}]" if "str" in item.split(" | ") else f"{item} | Sequence[{item}]"
    if origin in {dict, Mapping} or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return f"Mapping[{', '.join(map(_type, arguments))}]"
    if annotation is type(None):
        return "None"
    return {Path: "str | PathLike[str]", Any: "Any"}.get(annotation) or annotation.__name__


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def main() -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if not parser.parse_args().check:
        TARGET.write_text(written(), encoding="utf-8", newline="\n")
        return 0
    if TARGET.read_text(encoding="utf-8") == written():
        return 0
    print(f"{TARGET} is not up to date; run python tools/api_options.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
