"""Texts to score: JSON lines, JSON lists and plain lines, told by their content, in the order of the records."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.core.errors import DataError
from tailora.data.system_texts import read_texts

TEXTS = ["Blue Door is a pub.", "", 'The "Oak"\u2028is a café. {1}']
IDS = ["1", "2", "3"]


def saved(folder: Path, name: str, content: str, *, packed: bool = False) -> Path:
    path = folder / name
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return path


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FORMS: dict[str, Callable[[list[str]], str]] = {
    "JSON lines": lambda texts: lines([{"text": text} for text in texts]),
    "CRLF": lambda texts: lines([{"text": text} for text in texts]).replace("\n", "\r\n"),
    "no final line end": lambda texts: lines([{"text": text} for text in texts]).rstrip("\n"),
    "blank lines": lambda texts: "\n" + lines([{"text": text} for text in texts]).replace("\n", "\n\n") + "\n\n",
    "a byte-order mark": lambda texts: "\ufeff" + lines([{"text": text} for text in texts]),
    "a list of objects": lambda texts: json.dumps([{"text": text} for text in texts], indent=2),
    "a list on one line": lambda texts: json.dumps([{"text": text} for text in texts]) + "\n",
    "a list of strings": json.dumps,
    "indented objects": lambda texts: "\n".join(json.dumps({"text": text}, indent=1) for text in texts),
}


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.ndjson", "a.JSON", "a.txt", "a", "a.jsonl.gz", "a.gz", "a.out"]
)
@pytest.mark.parametrize("form", FORMS)
def test_json_is_read_as_json_under_any_name(form: str, name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, name, FORMS[form](TEXTS), packed=name.endswith(".gz"))
    assert read_texts(path, IDS) == TEXTS
    packed = saved(tmp_path, "packed.txt", FORMS[form](TEXTS), packed=True)
    assert read_texts(packed, IDS) == TEXTS


def test_one_indented_object_is_one_text(tmp_path: Path) -> None:
    assert read_texts(saved(tmp_path, "a.json", '{\n  "text": "x"\n}\n'), ["1"]) == ["x"]


def test_lines_of_strings_where_the_name_says_json(tmp_path: Path) -> None:
    content = lines(TEXTS)
    assert read_texts(saved(tmp_path, "a.jsonl", content), IDS) == TEXTS
    assert read_texts(saved(tmp_path, "a.txt", content), IDS)[0] == '"Blue Door is a pub."', "a quotation in plain text"


PLAIN = [
    ("a\nb\nc\n", ["a", "b", "c"]),
    ("a\nb\nc", ["a", "b", "c"]),
    ("\ufeffa\r\nb\r\nc\r\n", ["a", "b", "c"]),
    ("a\rb\rc\r", ["a", "b", "c"]),
    ("a\n\nc\n", ["a", "", "c"]),
    ("\nb\n\n", ["", "b", ""]),
    ("a\nb\nc\n\n \n\r\n", ["a", "b", "c"]),
    ("a\n\n\n\n\n", ["a", "", ""]),
    ("\n\n\n", ["", "", ""]),
    ("\n\n", ["", "", ""]),
    (" \n\t\n \n", ["", "", ""]),
    ("5\n6\n7\n", ["5", "6", "7"]),
    ("[name] is\n{x\n[1]\n", ["[name] is", "{x", "[1]"]),
    ("null\ntrue\n{}\n", ["null", "true", "{}"]),
    ("one\u2028text\ntwo\x0c\nthree\x85 \n", ["one\u2028text", "two\x0c", "three\x85 "]),
]


@pytest.mark.parametrize(("content", "texts"), PLAIN)
def test_plain_lines(content: str, texts: list[str], tmp_path: Path) -> None:
    assert read_texts(saved(tmp_path, "a.txt", content), IDS) == texts
    assert read_texts(saved(tmp_path, "a.txt.gz", content, packed=True), IDS) == texts


def test_nothing_is_an_empty_text(tmp_path: Path) -> None:
    for content in ("", "\n", "\n\n\n"):
        assert read_texts(saved(tmp_path, "a.txt", content), ["1"]) == [""]
    assert read_texts(saved(tmp_path, "a.txt", "[]\n"), ["1"]) == ["[]"], "an empty list is a text where it may be one"


ROWS: Any = {
    "LLaMA-Factory": lambda text: {"prompt": "name : x", "predict": text, "label": "a reference"},
    "Hugging Face": lambda text: {"generated_text": text},
    "a batch of completions": lambda text: {
        "id": "batch_req_1",
        "custom_id": "r",
        "response": {"status_code": 200, "request_id": "q", "body": {"id": "cmpl-1", "choices": [{"text": text}]}},
        "error": None,
    },
    "a batch of chats": lambda text: {
        "id": "vllm-1",
        "custom_id": "r",
        "response": {"body": {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}},
        "error": None,
    },
    "a response": lambda text: {"id": "chatcmpl-1", "choices": [{"message": {"role": "assistant", "content": text}}]},
    "lm-eval": lambda text: {
        "doc_id": 0,
        "doc": {"text": "the record"},
        "target": "a reference",
        "arguments": {"gen_args_0": {}},
        "resps": [[text]],
        "filtered_resps": [text],
    },
    "ours": lambda text: {"id": "7", "adapter": None, "text": text, "candidates": [{"text": text}, {"text": "b"}]},
}


@pytest.mark.parametrize("program", ROWS)
def test_files_of_other_programs(program: str, tmp_path: Path) -> None:
    rows = [ROWS[program](text) for text in TEXTS]
    for number, row in enumerate(rows):
        for key, name in (("custom_id", f"request-{number}"), ("doc_id", number), ("id", f"{row.get('id')}{number}")):
            if key in row:
                row[key] = name
    assert read_texts(saved(tmp_path, "generated_predictions.jsonl", lines(rows)), IDS) == TEXTS
    assert read_texts(saved(tmp_path, "a.json", json.dumps(rows)), IDS) == TEXTS


def test_a_key_is_named(tmp_path: Path) -> None:
    rows = [{"source": "x", "outputs": [{"said.so": text}]} for text in TEXTS]
    path = saved(tmp_path, "a.jsonl", lines(rows))
    with pytest.raises(
        DataError, match=r"a.jsonl:1: has no 'text' \(keys: 'source', 'outputs'\); name .*--text-key, --against-key"
    ):
        read_texts(path, IDS)
    flat = saved(tmp_path, "flat.jsonl", lines([{"said.so": text, "text": "?"} for text in TEXTS]))
    assert read_texts(flat, IDS, key="said.so") == TEXTS
    nested = saved(tmp_path, "nested.jsonl", lines([{"outputs": [{"said": text}]} for text in TEXTS]))
    assert read_texts(nested, IDS, key="outputs.0.said") == TEXTS
    with pytest.raises(DataError, match=r"nested.jsonl:1: has no 'outputs.1'"):
        read_texts(nested, IDS, key="outputs.1")
    with pytest.raises(DataError, match="no JSON objects with a key"):
        read_texts(saved(tmp_path, "a.txt", "a\nb\nc\n"), IDS, key="text")


WRONG = [
    ('{"text": "a"}\n{"text": null}\n{"text": "c"}\n', r":2: the text is null, not a string"),
    ('{"text": "a"}\n\n{"text": ["b"]}\n{"text": "c"}\n', r":3: the text is a JSON list"),
    ('{"text": "a"}\n{"text": 5}\n{"text": "c"}\n', r":2: the text is a JSON int"),
    ('{"text": "a"}\n{"adapter": "b"}\n{"text": "c"}\n', r":2: has no 'text'"),
    ('{"text": "a"}\n{}\n{"text": "c"}\n', r":2: has no 'text' \(keys: none\)"),
    ('{"text": "a"}\n{"text": "b"}\n{"te', r":3: "),
    ('{"text": "a"}\nnull\n{"text": "c"}\n', r":2: "),
    ('{"text": "a"}\nb\n{"text": "c"}\n', r":2: "),
    ('{"text": "a", "prediction": "b"}\n' * 3, r":1: has 'text' and 'prediction'"),
    ('[{"text": "a"}, {"text": null}, {"text": "c"}]', r": entry 2: the text is null"),
    ('["a", null, "c"]', r": (entry 2: the text is null|contains 1 text for 3)"),
    ('{"text": "a"}\n{"text": "b"}\n', r": contains 2 texts for 3 records"),
    ('{"id": 1, "text": "a"}\n{"id": 3, "text": "b"}\n', r": contains 2 texts for 3 records, .* is '2'"),
    ('{"text": "a"}\n{"text": "b \\ud83d"}\n{"text": "c"}\n', r":2: the text has half of a surrogate pair"),
    ('["a", "b", "\\udc00"]', r": entry 3: the text has half of a surrogate pair"),
    ('{"text": "a"}\n{"text": "b", "text": "c"}\n{"text": "d"}\n', r":2: the key 'text' occurs twice"),
    (
        '{"text": "a"},\n{"text": "b"},\n{"text": "c"},\n',
        r"(:\d)?: (broken JSON|the lines are objects with a text, but)",
    ),
    ('  {"text": "a"},\n  {"text": "b"},\n  {"text": "c"}', r"(:\d)?: (broken JSON|the lines are objects with a text)"),
    ("{'text': 'a'}\n{'text': \"b\"}\n{'text': 'c'}\n", r"(:\d)?: (broken JSON|the lines are objects with a text)"),
    ("{'text': 'a'}\nb\nc\n", r"(:\d)?: (broken JSON|is not a JSON object with a text)"),
    ('["a", "b"]', r": contains (2 texts|1 text) for 3 records"),
    ('{"a": "x", "b": "y", "c": "z"}', r":1: has no 'text'"),
    (
        '{"custom_id": "1", "response": null, "error": {"message": "too long"}}\n' * 3,
        r":1: the request failed .*too long",
    ),
    ('{"doc_id": 0, "filtered_resps": [[-1.5, false]]}\n' * 3, r":1: the text is a JSON list"),
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
@pytest.mark.parametrize(("content", "message"), WRONG)
def test_what_cannot_be_scored_is_an_error_with_its_line(content: str, message: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=name + message):
        read_texts(saved(tmp_path, name, content), IDS)


def test_files_that_say_they_are_json_and_are_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.jsonl:2: broken JSON"):
        read_texts(saved(tmp_path, "a.jsonl", '\nBlue Door is a pub.\n"b"\n"c"\n'), IDS)
    with pytest.raises(DataError, match=r"neither JSON objects nor strings"):
        read_texts(saved(tmp_path, "a.json", "1\n2\n3\n"), IDS)
    deep = saved(tmp_path, "deep.json", "[" * 100_000)
    with pytest.raises(DataError, match=r"deep.json:1: broken JSON"):
        read_texts(deep, IDS)


@pytest.mark.parametrize("content", ["a\nb\n", "a\nb\nc\nd\n", "a\nb\nc\n\nd\n", "\n"])
def test_other_numbers_of_lines(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains \d texts? for 3 records; give one text for each record"):
        read_texts(saved(tmp_path, "a.txt", content), IDS)


ORDERED = [
    (["b", "c", "a"], ["a", "b", "c"]),  # the records' own names
    (["2", "3", "1"], ["1", "2", "3"]),
    ([2, 3, 1], ["1", "2", "3"]),
    ([2.0, 3.0, 1.0], ["1", "2", "3"]),  # as pandas writes a column with a gap
    ([" 2", "3 ", " 1 "], ["1", "2", "3"]),
    ([1, 2, 0], ["1", "2", "3"]),  # places, from 0
    ([1, 2, 0], ["x", "y", "z"]),
    ([2, 3, 1], ["x", "y", "z"]),  # places, from 1
    (["request-2", "request-3", "request-1"], ["x", "y", "z"]),
    (["r-010", "r-002", "r-001"][::-1], ["x", "y", "z"]),  # no places, and already in order
]


@pytest.mark.parametrize(("names", "ids"), ORDERED)
@pytest.mark.parametrize("key", ["id", "ID", "custom_id", "index"])
def test_named_rows_are_put_into_the_records_order(key: str, names: list[Any], ids: list[str], tmp_path: Path) -> None:
    rows = [{key: name, "text": f"of {name}"} for name in names]
    wanted = [f"of {name}" for name in sorted(names, key=lambda name: str(name).strip())]
    assert read_texts(saved(tmp_path, "a.jsonl", lines(rows)), ids) == wanted


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", "b"], r":3: the id 'b' occurs on line 2 already"),
        (["a", "b", None], r":3: has no id, and other rows have one"),
        (["a", "b", "d"], r": the ids are not those of the records: 'c' is missing"),
        (["r9", "r4", "r5"], r": the ids are not those of the records"),
    ],
)
def test_names_that_fit_in_part_are_refused(names: list[str | None], message: str, tmp_path: Path) -> None:
    rows = [{"id": name, "text": "x"} for name in names]
    with pytest.raises(DataError, match=message):
        read_texts(saved(tmp_path, "a.jsonl", lines(rows)), ["a", "b", "c"])


@pytest.mark.parametrize("key", ["index", "doc_id"])
def test_numbers_of_rows_that_may_be_ids_are_refused(tmp_path: Path, key: str) -> None:
    rows = [{key: number, "text": f"of {number}"} for number in range(3)]
    path = saved(tmp_path, "a.jsonl", lines(rows))
    assert read_texts(path, ["0", "1", "2"]) == read_texts(path, ["x", "y", "z"]) == ["of 0", "of 1", "of 2"]
    with pytest.raises(DataError, match="the rows are numbered in their order, and the records have these numbers as"):
        read_texts(path, ["2", "0", "1"])
    ids = saved(tmp_path, "ids.jsonl", lines([{"id": row[key], "text": row["text"]} for row in rows]))
    assert read_texts(ids, ["2", "0", "1"]) == ["of 2", "of 0", "of 1"]


def test_names_of_another_kind_leave_the_order(tmp_path: Path) -> None:
    rows = [{"id": name, "text": text} for name, text in zip(["f3", "0c", "ab-x"], TEXTS, strict=True)]
    assert read_texts(saved(tmp_path, "a.jsonl", lines(rows)), IDS) == TEXTS


@given(texts=st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=5), indent=st.sampled_from([None, 1]))
def test_any_texts_come_back_from_json(tmp_path_factory: pytest.TempPathFactory, texts: list[str], indent: Any) -> None:
    path = tmp_path_factory.mktemp("texts") / "a.txt"
    path.write_text("\n".join(json.dumps({"text": text}, indent=indent) for text in texts), encoding="utf-8")
    assert read_texts(path, list(map(str, range(len(texts))))) == texts


@pytest.mark.parametrize("header", ["text", "id,text", "id\tPrediction", '"id","text"', "index;generated_text"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_the_header_of_a_table_is_not_a_text(header: str, name: str, tmp_path: Path) -> None:
    delimiter = next((mark for mark in ",;\t" if mark in header), ",")
    rows = [text if delimiter not in header else f"{n}{delimiter}{text}" for n, text in enumerate(["A.", "B.", "C."])]
    path = saved(tmp_path, name, "\n".join([header, *rows]) + "\n")
    with pytest.raises(DataError, match=r":1: is a table: its first line is the header .*; write one text per line"):
        read_texts(path, IDS)
    if header == "text":
        assert read_texts(path, ["0", *IDS])[0] == header, "as many lines as records are texts"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "name,text,score\nA,A is.,1\n"),
        ("a.txt", 'id;text\n1;"A; is."\n'),
        ("a.csv", "tên;văn bản\nA;A ở đây.\n"),
        ("a.tsv", "name\toutput\nA\tA is.\n"),
    ],
)
def test_a_table_is_refused_whatever_the_number_of_its_lines(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="is a table: its first line is the header"):
        read_texts(path, ["1", "2"])


def test_a_csv_without_a_header_is_not_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"The Mill, a pub."\nThe Oak is a cafe.\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv:1: quotes its cells as a table does; write one text per line without"):
        read_texts(path, ["1", "2"])
    lines = tmp_path / "a.txt"
    lines.write_bytes(path.read_bytes())
    assert read_texts(lines, ["1", "2"])[0] == '"The Mill, a pub."', "a text may be a quotation"


def test_texts_with_commas_are_not_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("The text, a pub.\nAn id, of course.\n", encoding="utf-8")
    assert read_texts(path, ["1", "2"]) == ["The text, a pub.", "An id, of course."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\tBlue Door is a pub.\n2\tThe Oak is a cafe.\n", "has 2 cells in every line, separated by tabs"),
        ("H-1\t-0.2\tThe Oak.\nH-0\t-0.5\tBlue Door.\n", "has 3 cells in every line"),
        ("Blue Door is a pub.\t0.5\nThe Oak is a cafe.\t0.7\n", "has 2 cells"),
        ("1. Blue Door is a pub.\n2. The Oak is a cafe.\n", "begins every line with its number"),
        ("0,Blue Door is a pub.\n1,The Oak is a cafe.\n", "begins every line with its number"),
        ("1) Blue Door is a pub.\r\n2)\r\n", "begins every line with its number"),
    ],
)
def test_lines_with_ids_or_numbers_are_not_texts(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"a.txt: {message}.*; write one text per line and nothing else"):
        read_texts(saved(tmp_path, "a.txt", content), ["x", "y"])


@pytest.mark.parametrize(
    "texts",
    [["1.5 stars.", "2.5 stars."], ["3. It is.", "4. It is."], ["a\tb", "a b"], ["1", "2"], ["9" * 5000 + ".", "a"]],
)
def test_lines_that_only_look_like_numbered_ones_are_texts(texts: list[str], tmp_path: Path) -> None:
    assert read_texts(saved(tmp_path, "a.txt", "\n".join(texts)), ["x", "y"]) == texts
