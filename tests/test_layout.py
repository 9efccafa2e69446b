"""The house rules that can be read from the source: layers, imports, docstrings, and what stays free of PyTorch."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src"
LAYERS = (
    {"core"},
    {"families"},
    {"adapters", "data", "metrics", "reports"},
    {"lora", "inserts", "models", "loralib"},
    {"training", "engine"},
    {"inference"},
    {"evaluation", "experiments", "serve"},
    {"commands"},
    {"api", "cli", "__main__"},
    {""},
)
TORCH_FREE = {
    *("core", "families", "adapters", "data", "metrics", "reports"),
    *("engine", "inference", "evaluation", "serve"),
}
# Commands that an environment without PyTorch runs, on OpenVINO.
TORCH_FREE_COMMANDS = {
    f"tailora.commands.{name}" for name in ("generate", "evaluate", "lint", "clean", "models", "plot")
}
# Modules of these packages that exist for PyTorch alone and are imported where they are chosen.
NEED_TORCH = {
    "tailora.engine.backends.torch",
    "tailora.inference.attached",
    "tailora.inference.conversion",
    "tailora.inference.merged_gguf",
    "tailora.inference.merged_model",
    "tailora.inference.probes",
    "tailora.inference.quantization",
    "tailora.inference.verification",
}
# Modules that import an optional package, and are imported where it is chosen.
NEED_AN_EXTRA = {"tailora.data.hub_data_sets", "tailora.inference.ray_texts", "tailora.serve.ray"}
# The only steps sideways between packages of a layer, in one direction each: scores that need the facts of a
# record, and the fingerprint of the network under an adapter.
SIDEWAYS = {("metrics", "data"), ("lora", "models"), ("inserts", "models")}
# Modules that may import inside a function, and what: optional packages, and backends where they are chosen.
LATE_IMPORTS = {
    "tailora.cli": {"tailora.core.flags"},
    "tailora.core.hardware.devices": {"torch"},
    "tailora.adapters.formats": {"tailora.adapters.formats"},
    "tailora.adapters.formats.gguf": {"gguf"},
    "tailora.adapters.formats.loralib": {"torch"},
    "tailora.adapters.formats.tensors": {"torch"},
    "tailora.commands.serve": {"tailora.serve.server"},
    "tailora.data.download": {"certifi"},
    "tailora.data.hub_sources": {"tailora.data.hub_data_sets"},
    "tailora.data.readers.columnar": {"pyarrow"},
    "tailora.commands.compare": {"tailora.experiments.compared_texts", "tailora.experiments.comparison"},
    "tailora.commands.convert": {"tailora.inference.conversion", "tailora.inference.merged_gguf"},
    "tailora.commands.learning_curve": {"tailora.experiments.learning_curve"},
    "tailora.commands.merge": {"tailora.inference.merged_model"},
    "tailora.commands.plan": {"tailora.training.planning"},
    "tailora.commands.quantize": {"tailora.inference.quantization"},
    "tailora.commands.quickstart": {"tailora.experiments.quickstart"},
    "tailora.commands.train": {"tailora.training.run"},
    "tailora.commands.tune": {"tailora.experiments.tuning"},
    "tailora.commands.verify": {"tailora.inference.verification"},
    "tailora.evaluation.systems": {"tailora.inference.merged_model"},
    "tailora.experiments.studies": {"optuna", "sqlalchemy"},
    "tailora.serve.server": {"tailora.serve.tracing"},
    "tailora.training.distributed": {"torch.distributed.tensor"},
    "tailora.training.sharded": {"torch.distributed.fsdp"},
    "tailora.training.trackers.feed": {"tailora.training.trackers"},
    "tailora.models.gguf": {"tailora.models.gguf_conversion"},
    "tailora.models.gguf_conversion": {"transformers.integrations.gguf"},
    "tailora.inference.self_check": {"torch", "tailora.models.load"},
    "tailora.inference.text_job": {"tailora.inference.ray_texts"},
    "tailora.inference.start": {
        "torch",
        "tailora.inference.attached",
        "tailora.engine.backends.openvino",
        "tailora.engine.backends.torch",
        "tailora.models.load",
    },
}
DYNAMIC_IMPORTS = {"tailora.commands", "tailora.core.lazy"}
GENERATED = {"tailora.api.options"}


class Import(NamedTuple):
    target: str
    line: int
    late: bool


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def trees() -> dict[str, ast.Module]:
    return {module_name(path): ast.parse(path.read_bytes()) for path in sorted(SOURCE.rglob("*.py"))}


PACKAGES = {module_name(path) for path in SOURCE.rglob("__init__.py")}


def imports_of(module: str) -> Iterator[Import]:
    """Every import statement's target, `from package import module` resolved to the module; not of types alone."""

    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}:{child.lineno}: import by full name"
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    yield Import(inner if inner in trees() else str(child.module), child.lineno, late)
            yield from visit(child, late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    return visit(trees()[module], late=False)


@functools.cache
def imports() -> dict[str, list[Import]]:
    return {module: list(imports_of(module)) for module in trees()}


def room(module: str) -> str:
    """The part of the house: the first name below the package."""
    return module.split(".")[1] if "." in module else ""


def layer(module: str) -> int:
    return next((level for level, rooms in enumerate(LAYERS) if room(module) in rooms), -1)


def is_torch_free(module: str) -> bool:
    return (room(module) in TORCH_FREE and module not in NEED_TORCH) or module in TORCH_FREE_COMMANDS


def is_plain_module(name: str) -> bool:
    return f"tailora.{name}" not in PACKAGES


def test_every_module_has_its_layer() -> None:
    unplaced = {module for module in trees() if module != "tailora" and layer(module) < 0}
    assert not unplaced, "name their rooms in LAYERS, here and in CONTRIBUTING.md"


def points_down(module: str, target: str) -> bool:
    if not target.startswith("tailora.") or room(target) == room(module):
        return True
    beside = layer(target) == layer(module) and is_plain_module(room(module)) and is_plain_module(room(target))
    return layer(target) < layer(module) or beside or (room(module), room(target)) in SIDEWAYS


def test_imports_point_down_or_stay_in_the_folder() -> None:
    wrong = [
        f"{module}:{line} imports {target}, which is not below it"
        for module, found in imports().items()
        for target, line, _ in found
        if not points_down(module, target)
    ]
    assert not wrong


def test_no_command_imports_another() -> None:
    commands = [module for module in trees() if module.startswith("tailora.commands.")]
    assert len(commands) > 10
    others = {
        module: found.target
        for module in commands
        for found in imports()[module]
        if found.target.startswith("tailora.commands.")
    }
    assert not others


def test_no_cycles() -> None:
    # An import of a package from within it (`formats` choosing a backend) is late and starts no cycle on loading.
    graph = {
        module: {target for target, _, late in found if target in trees() and target != module and not late}
        for module, found in imports().items()
    }
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(trees())


def test_imports_stand_at_the_top() -> None:
    wrong = [
        f"{module}:{line}: {target}"
        for module, found in imports().items()
        for target, line, late in found
        if late and not any(f"{target}.".startswith(f"{name}.") for name in LATE_IMPORTS.get(module, set()))
    ]
    assert not wrong


def test_only_the_table_of_commands_imports_by_name() -> None:
    calls = [
        f"{module}:{node.lineno}"
        for module, tree in trees().items()
        if module not in DYNAMIC_IMPORTS
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
        and (node.id if isinstance(node, ast.Name) else node.attr) in {"import_module", "__import__"}
    ]
    assert not calls


def test_the_lists_of_exceptions_hold_no_dead_entries() -> None:
    late = {module: {found.target for found in imports()[module] if found.late} for module in LATE_IMPORTS}
    assert all(late.values()), "drop what is no longer needed from LATE_IMPORTS"


def test_messages_are_printed_on_one_console() -> None:
    made = {
        module
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console"
    }
    quiet = "tailora.experiments.tuning"  # no output at all
    assert made == {"tailora.core.console", quiet}, "use message_console, which wraps nothing in a file or pipe"


def test_every_module_tells_its_purpose() -> None:
    silent = [module for module, tree in trees().items() if not ast.get_docstring(tree)]
    assert not silent, "open the module with its purpose"


def test_torch_free_modules_name_no_torch() -> None:
    heavy = {
        module: found
        for module in filter(is_torch_free, trees())
        for found in imports()[module]
        if not found.late and room(f".{found.target}") in {"torch", "transformers"}
    }
    assert not heavy


def test_torch_free_modules_load_no_torch() -> None:
    modules = ", ".join(module for module in trees() if is_torch_free(module) and module not in NEED_AN_EXTRA)
    program = f"import {modules}, sys; print(sorted({{'torch', 'transformers'}} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def choices_of(tree: ast.Module) -> Iterator[tuple[str | None, frozenset[object], int]]:
    """Every `Literal` of several constants: the name it is given at the top of the module, its members and its line."""
    names = {
        id(node.value): node.targets[0].id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal"):
            continue
        members = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if len(members) > 1 and all(isinstance(member, ast.Constant) for member in members):
            values = frozenset(member.value for member in members if isinstance(member, ast.Constant))
            yield names.get(id(node)), values, node.lineno


def test_every_class_has_a_name_of_its_own() -> None:
    places: dict[str, str] = {}
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in places, f"{module} and {places[node.name]} both define {node.name}"
                places[node.name] = module


def test_every_set_of_choices_has_one_definition() -> None:
    by_name: dict[str, str] = {}
    by_members: dict[frozenset[object], str] = {}
    for module, tree in trees().items():
        if module in GENERATED:
            continue
        for name, members, line in choices_of(tree):
            place = f"{module}:{line}"
            assert members not in by_members, f"{place} repeats {by_members[members]}; import that alias"
            by_members[members] = place
            if name is not None:
                assert name not in by_name, f"{place} and {by_name[name]} call different choices {name}"
                by_name[name] = place
