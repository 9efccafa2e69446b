"""Damaged files of every kind that Tailora reads; reading one ends in a value, or in one error of the user."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import random
import resource
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bases import META, save_adapter, save_base
from tailora.adapters import formats
from tailora.adapters.formats import loralib
from tailora.commands.plot import curves_of_runs
from tailora.core.errors import UserError
from tailora.core.resume_log import ResumeLog
from tailora.data.chat_template import ChatTemplate
from tailora.data.records import load
from tailora.data.system_texts import read_texts
from tailora.data.tokenizer import Tokenizer
from tailora.evaluation.training_record import training_settings
from tailora.metrics.slot_rules import load_rules
from tailora.models.config import read_config
from tailora.models.gguf import converted
from tailora.models.weights import stored_tensors
from tailora.serve.keys import read_keys
from tailora.training.resume import Job, ResumeFolder
from tailora.training.settings import TrainSettings
from tailora.training.state_file import RunState

SECONDS = 20.0  # that reading a small damaged file may take, on a busy machine
MEMORY = 1 << 30  # bytes that it may take more than the process has


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        seeds: whole files.
        name: of the file in its folder.
        read: reads the file at a path, as a command does.
        frame: makes the folder around the file.
    """

    seeds: list[bytes]
    name: str
    read: Callable[[Path], Any]
    frame: Callable[[Path], Any] | None = None


TOKENS: list[bytes] = [
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n", b'"', b"'", b"\\", b"\\ud800", b"\xed\xa0\x80"),
    *(b"{", b"}", b"[", b"]", b"<", b">", b"&", b"|", b" : ", b",", b"\t", b"#", b"- ", b": ", b"!!", b"*a", b"&a "),
    *(b"null", b"true", b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"9" * 5000, b"2020-13-45", b"0x", b"1:99:99"),
    *(
        b"{}",
        b"[]",
        b'""',
        b"[[[]]]",
        b"[" * 1500,
        b"{" * 1500,
        b'{"a":' * 5000,
        b"<a>" * 5000,
        b"- " * 1500,
        b"(" * 500,
    ),
    *(
        b"!!python/object:os.system",
        b"!!binary x",
        b"!!float x",
        b"!!int x",
        b"!!set {a}",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
    ),
    *(b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", "\u2028".encode(), "é".encode()),
]
VALUES: list[Any] = [None, True, -1, 0, 1.5, 2**70, float("nan"), float("inf"), "", "x", "\x00", [], {}, [[]], [None]]
VALUES += [{"": None}, "a" * 3000, 10**400, ["x", 1], {"x": {"y": []}}]


def damaged(content: bytes, source: random.Random) -> bytes:
    """One to three changes of bytes, or a change of one value where the file is JSON."""
    if source.random() < 0.4:
        changed = _other_value(content, source)
        if changed is not None:
            return changed
    for _ in range(source.randint(1, 3)):
        content = _other_bytes(content, source)
    return content


def _other_bytes(content: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(content) + 1)
    if len(content) > 4096 and source.random() < 0.6:
        start = source.choice((source.randrange(2048), len(content) - source.randrange(512)))  # headers and footers
    end = min(len(content), start + source.choice((0, 1, 2, 8, 64, 1024)))
    match source.randrange(6):
        case 0:
            return content[:start]
        case 1:
            return content[:start] + content[end:]
        case 2:
            return content[:start] + source.choice(TOKENS) + content[end:]
        case 3:
            return content[:end] + content[start:]
        case 4:
            return content[:start] + bytes(source.randrange(256) for _ in range(end - start)) + content[end:]
        case _:
            flipped = bytes([content[start] ^ 1 << source.randrange(8)]) if start < len(content) else b""
            return content[:start] + flipped + content[start + 1 :]


def _other_value(content: bytes, source: random.Random) -> bytes | None:
    """Replace, remove or rename a value of a JSON file, of one line of JSON lines, or of a safetensors header."""
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        size = int.from_bytes(content[:8], "little")
        header = _other_value(content[8 : 8 + size], source)
        return None if header is None else len(header).to_bytes(8, "little") + header + content[8 + size :]
    for parts in ([content], content.split(b"\n")):
        place = source.randrange(len(parts))
        try:
            value = json.loads(parts[place])
        except (ValueError, RecursionError):
            continue
        parts[place] = json.dumps(_changed(value, source)).encode()
        return b"\n".join(parts)
    return None


def _changed(value: Any, source: random.Random) -> Any:
    if isinstance(value, dict | list) and value and source.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = source.choice(keys)
        whole = value.copy()
        if source.random() < 0.15:
            del whole[key]
        else:
            whole[key] = _changed(value[key], source)
        return whole
    return source.choice(VALUES)


class Reading(NamedTuple):
    """What became of a file: read, or refused with an error."""

    error: UserError | None
    seconds: float


def reading(kind: Kind, content: bytes, folder: Path) -> Reading:
    """Read a file, with a limit of memory.

    Raises:
        AssertionError: reading took too long, or the error is not one line.
        BaseException: reading ended in another error than one of the user.
    """
    path = folder / kind.name
    path.write_bytes(content)
    error: UserError | None = None
    began = time.monotonic()
    with limited_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kind.read(path)
        except UserError as refused:
            error = refused
    seconds = time.monotonic() - began
    assert seconds < SECONDS, f"{kind.name}: {seconds:.1f} s"
    if error is not None:
        assert str(error).strip()
        assert "\n" not in str(error)
        assert len(str(error)) < 4000, f"{kind.name}: a message of {len(str(error)):,} characters"
    return Reading(error, seconds)


@contextmanager
def limited_memory() -> Iterator[None]:
    """Limit the address space to what the process has and `MEMORY` more."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _data(*seeds: str | bytes, name: str, format: str | None = None) -> Kind:
    raw = [seed.encode() if isinstance(seed, str) else seed for seed in seeds]

    def read(path: Path) -> None:
        load(path, texts="optional", language="all", format=format)
        load(path, texts="required", format=format)

    return Kind(raw, name, read)


E2E = """mr,ref
"name[Blue Spice], eatType[pub], area[riverside]",Blue Spice is a pub.
"name[Mill], food[Thai]","The, Mill"
"""
CSV = 'id;name;food;text\n1;Mill;Thai;"The ""Mill""\nserves Thai."\n2;Zoë;;Zoë.\n'
TSV = "name\tfood\ttext\nMill\tThai\tThe Mill.\nInn\t\tThe Inn.\n"
PIPED = "name : Blue Spice | Type : pub||Blue Spice is a pub .\nname : Mill | food : Thai||The Mill .\n"
JSONL = (
    '{"id": "1", "facts": {"name": "Mill", "food": ["Thai", "French"]}, "text": "The Mill."}\n'
    '{"id": "2", "facts": [["Mill", "food", "Thai"], ["Inn", "price", 1.50]], "texts": ["a", "b"], "group": "g"}\n'
)
OBJECTS = (
    '[{"name": "Mill", "price": 3, "open": true, "text": "The Mill."}, {"name": "Inn", "tags": ["a"], "text": "Inn"}]'
)
MESSAGES = (
    '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},'
    ' {"role": "assistant", "content": "a"}]}\n'
    '{"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}\n'
    '{"instruction": "i", "input": "x", "output": "o"}\n'
)
VIGGO = """mr,ref
"inform(name[Portal 2], genres[puzzle, platformer])",Portal 2 is a puzzle platformer.
"confirm(name[Mill])",Do you mean Mill?
"""
WEBNLG_XML = """<benchmark><entries><entry category="Food" eid="Id1" size="1">
<originaltripleset><otriple>A | b | C</otriple>
</originaltripleset><modifiedtripleset><mtriple>A_B | type | C</mtriple></modifiedtripleset>
<lex comment="good" lid="Id1" lang="en">A B is a C.</lex></entry></entries></benchmark>"""
WEBNLG_JSON = json.dumps(
    {
        "entries": [
            {
                "1": {
                    "category": "Food",
                    "modifiedtripleset": [{"subject": "A", "property": "p", "object": "B"}],
                    "lexicalisations": [{"comment": "good", "lex": "A p B.", "lang": "en"}],
                }
            }
        ]
    }
)
DART = json.dumps([{"tripleset": [["A", "p", "B"]], "annotations": [{"source": "x", "text": "A p B."}]}])
KEYS = (
    "- name: shop\n  sha256: " + "a" * 64 + "\n  models: [one]\n- name: op\n  sha256: " + "b" * 64 + "\n  admin: true\n"
)
SETTINGS = "data: e2e\nbase: tiny\nrank: 8 # a comment\ncolumns: {text: ref, facts: [a, b]}\nlearning_rate: 1e-3\n"
RULES = (
    "attributes:\n  food:\n    closed: true\n    aliases: [cuisine]\n    rules:\n      - values: [French]\n"
    "        patterns: ['\\bfrench\\b']\n        unsure: ['paris']\n"
)
METRICS = '{"step": 1, "loss": 2.5, "tokens": 10}\n{"step": 2, "loss": 2.25, "validation_loss": 2.0, "tokens": 20}\n'
OUTPUTS = '{"id": "1", "text": "The Mill."}\n{"id": "2", "text": "The Inn."}\n'
TABLE = pa.table({"name": ["Mill", "Inn"], "tags": [["a"], ["b", "c"]], "price": [1.5, None], "text": ["a", "b"]})


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


def _arrow() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


@functools.cache
def kinds(folder: Path) -> dict[str, Kind]:
    """All kinds of files; real models and runs are made in a folder."""
    save_base(folder / "base")
    save_adapter(folder / "adapter", str(folder / "base"), seed=1, meta=META)
    _save_run(folder / "run")
    base, adapter = folder / "base", folder / "adapter"

    def adapter_kind(name: str) -> Kind:
        return Kind(
            [(adapter / name).read_bytes()], name, lambda path: formats.load_any(path.parent), _copies(adapter, name)
        )

    def base_kind(name: str, read: Callable[[Path], Any]) -> Kind:
        return Kind([(base / name).read_bytes()], name, lambda path: read(path.parent), _copies(base, name))

    found = {
        "E2E": _data(E2E, name="a.csv"),
        "ViGGO": _data(VIGGO, name="a.csv"),
        "CSV": _data(CSV, CSV.encode("utf-16"), name="a.csv"),
        "TSV": _data(TSV, name="a.tsv"),
        "piped": _data(PIPED, name="a.txt"),
        "JSON lines": _data(JSONL, name="a.jsonl"),
        "JSON": _data(OBJECTS, name="a.json"),
        "messages": _data(*MESSAGES.splitlines(keepends=True), name="a.jsonl"),
        "WebNLG XML": _data(WEBNLG_XML, name="a.xml"),
        "WebNLG JSON": _data(WEBNLG_JSON, name="a.json"),
        "DART": _data(DART, name="a.json"),
        "Parquet": _data(_parquet(), name="a.parquet"),
        "Arrow": _data(_arrow(), name="a.arrow"),
        "adapter weights": adapter_kind("adapter_model.safetensors"),
        "adapter_config.json": adapter_kind("adapter_config.json"),
        "tailora.json": adapter_kind("tailora.json"),
        "loralib state dict": Kind(
            [_state_dict()], "a.pt", lambda path: loralib.load(path, alpha=8, enable_lora=[True, False, True])
        ),
        "base weights": base_kind("model.safetensors", stored_tensors),
        "config.json": base_kind("config.json", read_config),
        "tokenizer.json": base_kind("tokenizer.json", Tokenizer.from_folder),
        "tokenizer_config.json": base_kind("tokenizer_config.json", _tokenizer_and_template),
        "run.json": Kind([_run_json()], "run.json", lambda path: training_settings(path.parent)),
        "metrics.jsonl": Kind([METRICS.encode()], "metrics.jsonl", _plot),
        "outputs.jsonl": Kind([OUTPUTS.encode()], "outputs.jsonl", lambda path: read_texts(path, ["1", "2"])),
        "resume log": Kind([b'"job"\n[0, {"text": "a"}]\n[1, {"text": "b"}]\n'], "out.unfinished", _resume_log),
        "resume state": Kind([_state(folder / "run")], "resume/state-000000001.safetensors", _resume, _resume_folder),
        "slot rules": Kind([RULES.encode()], "rules.yaml", _slot_rules),
        "settings": Kind([SETTINGS.encode()], "settings.yaml", TrainSettings.from_yaml),
        "keys": Kind([KEYS.encode()], "keys.yaml", lambda path: read_keys(path, {})),
    }
    if importlib.util.find_spec("gguf"):
        from test_gguf import write_small  # which needs the package

        found["GGUF"] = Kind([write_small(folder / "small.gguf").read_bytes()], "a.gguf", converted)
    return found


def _copies(source: Path, name: str) -> Callable[[Path], None]:
    """Return what copies a folder without one of its files."""

    def frame(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(name))

    return frame


def _state_dict() -> bytes:
    sink = io.BytesIO()
    names = [f"transformer.h.0.attn.c_attn.lora_{part}" for part in "AB"]
    torch.save(dict(zip(names, (torch.zeros(8, 32), torch.zeros(64, 4)), strict=True)), sink)
    return sink.getvalue()


def _run_json() -> bytes:
    settings = TrainSettings(data="e2e").model_dump(mode="json")
    return json.dumps({"settings": settings, "account": {"base": "tiny", "base_fingerprint": "f"}}).encode()


def _save_run(run: Path) -> None:
    settings = TrainSettings(data="e2e").model_dump(mode="json")
    job = Job(settings, {"train": "a"}, "fingerprint", {"precision": "fp32"}, 10, 1)
    tensors = {"a.lora_A": torch.ones(4, 4)}
    optimizer = {0: {"exp_avg": torch.zeros(4, 4)}}
    state = RunState(1, {"losses": [1.0]}, 0, tensors, tensors, optimizer, {"cpu": torch.zeros(8, dtype=torch.uint8)})
    folder = ResumeFolder(run)
    folder.path.mkdir(parents=True)
    folder.save(job, state)


def _state(run: Path) -> bytes:
    return ResumeFolder(run).states()[0].read_bytes()


def _resume_folder(folder: Path) -> None:
    (folder / "resume").mkdir(parents=True)


def _resume(path: Path) -> None:
    ResumeFolder(path.parents[1]).load()


def _resume_log(path: Path) -> None:
    with ResumeLog(path.with_name("out"), "job"):
        pass


def _slot_rules(path: Path) -> None:
    load_rules.__wrapped__(path)  # without its cache


def _plot(path: Path) -> None:
    curves_of_runs([path.parent])


def _tokenizer_and_template(folder: Path) -> None:
    ChatTemplate.from_folder(folder, Tokenizer.from_folder(folder))
