"""Data sets of the hub by name, from a hub on this machine and from its library's cache, in processes of their own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hub_server import Repository, hub_of
from tailora.core.errors import DataError, MissingExtraError
from tailora.data.hub_names import HubName, short_name
from tailora.data.records import parse, read
from tailora.data.rewriting import rewriter_of

pytest.importorskip("datasets")
import pyarrow as pa
from pyarrow import parquet

NEW, OLD = "a" * 40, "b" * 40
ROWS: list[dict[str, Any]] = [
    {"name": "Mug", "colour": "red", "price": 1.5, "text": "The Mug is red."},
    {"name": "Bowl", "colour": None, "price": 2.0, "text": "A bowl."},
]
CARD = """---
configs:
- config_name: cups
  data_files: cups.jsonl
- config_name: pubs
  data_files: pubs.jsonl
---
"""
CLASSES = """---
dataset_info:
  features:
  - name: kind
    dtype:
      class_label:
        names:
          '0': pub
          '1': bar
  - name: tags
    sequence:
      class_label:
        names:
          '0': old
          '1': new
  - name: picture
    dtype: binary
  - name: text
    dtype: string
---
"""


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def as_lines(*rows: Mapping[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


SPLITS = {
    "data/train-00000-of-00001.parquet": as_parquet(ROWS),
    "data/validation-00000-of-00001.parquet": as_parquet(ROWS[:1]),
}
KINDS: list[dict[str, Any]] = [
    {"kind": 1, "tags": [0, 1], "picture": b"\x89PNG", "text": "A bar."},
    {"kind": -1, "tags": [1], "picture": b"", "text": "It is new."},
]
CHAT = [{"role": "user", "content": "Describe the Mug."}, {"role": "assistant", "content": "It is red."}]
REPOSITORIES = {
    "org/places": Repository({NEW: SPLITS, OLD: {"train.jsonl": as_lines(ROWS[1])}}, {"v1": OLD, "refs/pr/2": OLD}),
    "org/chosen": Repository(
        {NEW: {"README.md": CARD.encode(), "cups.jsonl": as_lines(ROWS[0]), "pubs.jsonl": as_lines(ROWS[1])}}
    ),
    "org/classes": Repository({NEW: {"README.md": CLASSES.encode(), "train.parquet": as_parquet(KINDS)}}),
    "org/secret": Repository({NEW: SPLITS}, token="hf_mine"),
    "org/gated": Repository({NEW: SPLITS}, gated=True),
    "org/program": Repository({NEW: {"program.py": b"open('ran', 'w').close()"}}),
    "org/empty": Repository({NEW: {"README.md": b"nothing"}}),
    "org/broken": Repository({NEW: {"train.parquet": b"PAR1 not really"}}),
    "org/lines": Repository({NEW: {"train.jsonl": as_lines(ROWS[0]) + b'{"name": ["a"], "text": 1}\n{"name'}}),
    "org/failing": Repository({NEW: {"train.jsonl": as_lines(*ROWS)}}, failing=True),
    "org/chat": Repository(
        {NEW: {"train.jsonl": as_lines({"messages": CHAT}), "test.jsonl": as_lines({"messages": CHAT})}}
    ),
    "org/parts": Repository({NEW: {"data/first_half-00000-of-00001.jsonl": as_lines(ROWS[0])}}),
}
PROGRAM = """
import json, sys
from tailora.core.errors import UserError
from tailora.data.records import load, splits
for source, split in json.loads(sys.argv[1]):
    try:
        data = load(source, split=split, texts="optional")
        facts = [{fact.attribute: fact.value for fact in record.facts} for record in data.records]
        texts = [list(record.references) for record in data.records]
        answer = {"splits": splits(source), "facts": facts, "texts": texts, "notes": data.notes}
    except UserError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer))
"""


def environment(home: Path, endpoint: str, **more: str) -> dict[str, str]:
    dropped = ("hf_", "transformers_offline", "http_proxy", "https_proxy", "all_proxy")
    kept = {key: value for key, value in os.environ.items() if not key.lower().startswith(dropped)}
    source = str(Path(__file__).parents[1] / "src")
    return kept | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "PYTHONPATH": source} | more


def ask(home: Path, endpoint: str, *sources: tuple[str, str | None], **more: str) -> list[dict[str, Any]]:
    """Read sources in one process; returns what each contains, or its error."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(sources)],
        env=environment(home, endpoint, **more),
        capture_output=True,
        text=True,
        cwd=home,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[str, list[str]]]:
    with hub_of(REPOSITORIES) as served:
        yield served


def test_splits_revisions_configurations_and_classes(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, _ = hub
    train, valid, old, request, named, cups, classes, chat, parts = ask(
        tmp_path,
        endpoint,
        ("org/places", "train"),
        ("org/places", "valid"),
        ("org/places@v1", "train"),
        ("org/places@refs/pr/2#train", None),
        ("org/places#validation", None),
        ("org/chosen:cups", "train"),
        ("org/classes", "train"),
        ("org/chat", "test"),
        ("org/parts#first_half", None),
    )
    assert train["splits"] == ["train", "valid"]
    assert train["facts"] == [{"name": "Mug", "colour": "red", "price": "1.5"}, {"name": "Bowl", "price": "2.0"}]
    assert train["texts"] == [["The Mug is red."], ["A bowl."]]
    assert valid["facts"] == named["facts"] == train["facts"][:1]
    assert old["facts"] == request["facts"] == [{"name": "Bowl", "price": "2.0"}]
    assert named["splits"] == []
    assert cups["facts"] == train["facts"][:1]
    assert classes["facts"] == [{"kind": "bar", "tags": "new"}, {"tags": "new"}]
    assert classes["notes"] == ["the column 'picture' holds bytes and is not read"]
    assert (chat["splits"], chat["facts"], chat["texts"]) == (["train", "test"], [{}], [["It is red."]])
    assert parts["facts"] == train["facts"][:1]


def test_chosen_rows_stand_on_their_own_lines(tmp_path: Path) -> None:
    program = """
import datasets, json, pathlib, sys
from tailora.data.hub_data_sets import HubRows
data = datasets.Dataset.from_list([{"n": n, "kind": n % 2} for n in range(3000)])
data = data.cast_column("kind", datasets.ClassLabel(names=["even", "odd"]))
rows = HubRows(pathlib.Path("org/x#train"), data)
print(rows.count, json.dumps(rows.read([0, 5, 2999]).split("\\n")), len(rows.read().split("\\n")))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment(tmp_path, "http://127.0.0.1:9"), capture_output=True, text=True, check=True
    )
    count, _, rest = done.stdout.partition(" ")
    listed, _, length = rest.rpartition(" ")
    lines = {place: json.loads(line) for place, line in enumerate(json.loads(listed)) if line}
    assert lines == {0: {"n": 0, "kind": "even"}, 5: {"n": 5, "kind": "odd"}, 2999: {"n": 2999, "kind": "odd"}}
    assert (int(count), int(length)) == (3000, 3001)


def test_errors_say_what_is_wrong_and_no_program_is_run(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, _ = hub
    cases = {
        ("org/nothing", "train"): "no such file or folder, and the hub has no such public data set; check the name",
        ("org/secret", "train"): "no such public data set; check the name; for a private data set, log in",
        ("org/gated", "train"): "asks for its terms to be accepted; accept them at http://127.0.0.1",
        ("org/places@v9", "train"): "the hub has no revision v9 of it; name a commit, a tag or a branch",
        ("org/places:pubs", "train"): "no configuration 'pubs'; write org/places:CONFIGURATION; it has default",
        ("org/chosen", "train"): "has several configurations; write org/chosen:CONFIGURATION; it has cups, pubs",
        ("org/places", "test"): "has no split 'test'; name one of its splits after a #",
        ("org/places", None): "is a data set with splits; choose with --split: train, valid",
        ("org/places#dev", None): "has no split 'dev'; its splits are train, validation",
        ("org/places#train", "valid"): "names the split train and has no split 'valid'; leave the split out",
        ("org/parts", None): "name one of its splits after a #, for example org/parts#first_half",
        ("org/program", "train"): "is a Python script, and Tailora runs no code of the hub; the hub may have converted",
        ("org/empty", "train"): "org/empty: the hub's library cannot read the data set",
        ("org/broken", "train"): "org/broken: the hub's library cannot read the data set (Parquet magic bytes",
        ("org/lines", "train"): "org/lines: the hub's library cannot read the data set (",
    }
    for (source, _), message, answer in zip(cases, cases.values(), ask(tmp_path, endpoint, *cases), strict=True):
        assert message in answer.get("message", f"no error for {source}"), (source, answer)
        assert answer["error"] == "DataError", source
        assert "An error occurred while" not in answer["message"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow  # the hub's library asks six times
def test_a_hub_that_fails_is_no_fault_of_the_data(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    (answer,) = ask(tmp_path, hub[0], ("org/failing", "train"))
    assert answer["error"] == "OfflineError"
    assert "org/failing: the download failed (" in answer["message"]


def test_a_token_opens_a_private_data_set(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    (answer,) = ask(tmp_path, hub[0], ("org/secret", "train"), HF_TOKEN="hf_mine")
    assert answer["texts"] == [["The Mug is red."], ["A bowl."]]


def test_the_librarys_cache_is_enough_without_a_hub(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, asked = hub
    nowhere = "http://127.0.0.1:9"
    (online,) = ask(tmp_path, endpoint, ("org/places@v1", "train"))
    before = len(asked)
    sources = ("org/places", "train"), (f"org/places@{OLD}", "train"), ("org/places@v1", "train")
    for more in ({"HF_HUB_OFFLINE": "1"}, {"HF_DATASETS_OFFLINE": "1"}, {}):
        *found, other, configuration, absent = ask(
            tmp_path,
            nowhere,
            *sources,
            ("org/places@v2", "train"),
            ("org/places:pubs", "train"),
            ("org/nothing", "train"),
            **more,
        )
        assert [answer["facts"] for answer in found] == [online["facts"]] * 3
        assert other["error"] == absent["error"] == "OfflineError"
        assert "another revision (bbbbb" in other["message"]
        assert "no configuration 'pubs'" in configuration["message"]
        why = "its library is set to work offline" if more else "http://127.0.0.1:9 cannot be reached"
        assert f"the hub's cache has no such data set, and {why}" in absent["message"]
    assert len(asked) == before


def test_a_run_is_called_after_its_data_set(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    words = ("train", "--data", "org/places@main", "--max-steps", "1", "--precision", "fp32", "--rank", "1")
    done = subprocess.run(
        [sys.executable, "-m", "tailora", *words],
        env=environment(tmp_path, hub[0]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "runs" / "places-lora-1" / "run.json").read_text(encoding="utf-8"))
    assert run["settings"]["data"] == "org/places@main"
    assert run["validation_loss"]["before"] is not None


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("org/name", HubName("org/name")),
        ("org/name-1.2:en", HubName("org/name-1.2", "en")),
        ("org/name@refs/pr/3", HubName("org/name", None, "refs/pr/3")),
        ("org/name:a b@v1#train_sft", HubName("org/name", "a b", "v1", "train_sft")),
        ("name", None),
        ("./org/name", None),
        ("a/b/c", None),
        ("/org/name", None),
    ],
)
def test_names(name: str, parts: HubName | None) -> None:
    assert HubName.parse(name) == parts


@pytest.mark.parametrize(
    ("source", "name"),
    [
        *(
            ("data/e2e.train.csv", "e2e"),
            ("e2e/", "e2e"),
            ("org/places:a@v1#b", "places"),
            ("org/name-v1.2#x", "name-v1"),
        ),
        ("C:\\data\\mine.csv", "mine"),
    ],
)
def test_names_of_runs(source: str, name: str) -> None:
    assert short_name(source) == name


def test_without_its_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, "tailora.data.hub_data_sets", raising=False)
    message = "org/places: there is no such file or folder, and the package datasets.*pip install 'tailora.datasets.'"
    with pytest.raises(MissingExtraError, match=message):
        read("org/places", split="train")


@pytest.mark.parametrize("source", ["data/mine.csv", "data/mine.jsonl.gz", "data/mine.parquet", "a/b/c"])
def test_a_missing_file_is_not_looked_for_on_the_hub(source: str) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read(source)


def test_a_data_set_of_the_hub_is_not_written_again() -> None:
    with pytest.raises(DataError, match="org/places: data sets of the hub cannot be written; give records"):
        rewriter_of(parse('{"name": "Mug", "text": "A mug."}', Path("org/places")))


def test_a_folder_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "places").mkdir(parents=True)
    (tmp_path / "org" / "places" / "train.csv").write_text("name,text\nMug,A mug.\n", encoding="utf-8")
    assert read("org/places", split="train")[0].references == ("A mug.",)


def test_what_the_hubs_library_lacks_is_the_reason() -> None:
    """A proxy, for example, needs a package that is not installed."""
    module = pytest.importorskip("tailora.data.hub_data_sets")

    def lacking() -> None:
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")

    name = HubName.parse("org/places")
    with pytest.raises(DataError, match=r"org/places: the hub's library cannot read the data set \(Using SOCKS proxy"):
        module._translated(name, lacking)
