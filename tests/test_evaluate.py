"""The verb: texts written or given, scored, compared, and shown."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from bases import META, save_adapter, save_base
from tailora.commands.evaluate import EvaluateSettings, run
from tailora.commands.generate import GenerateSettings
from tailora.commands.generate import run as generate
from tailora.core.errors import DataError, MissingExtraError, SettingsError, UserError
from tailora.core.files import write_json
from tailora.data import records as record_files
from tailora.data.reading import ReadingSettings
from tailora.evaluation.training_record import training_settings
from tailora.metrics import suite
from tailora.metrics.bleu import bleu
from tailora.metrics.suite import METRICS
from tailora.reports.marked_texts import marked
from tailora.reports.reproduction import card

ROWS = [
    ("The Mill", "pub", ["The Mill is a pub .", "There is a pub called The Mill ."]),
    ("Blue Spice", "coffee shop", ["Blue Spice is a coffee shop ."]),
    ("Giraffe", "restaurant", ["Giraffe is a restaurant .", "A restaurant is Giraffe ."]),
]
TEXTS = ["The Mill is a pub .", "Blue Spice is a restaurant .", "Giraffe <b>& co</b>"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [{"id": name, "facts": {"name": name, "eatType": kind}, "texts": texts} for name, kind, texts in ROWS]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def written(tmp_path: Path, texts: list[str], name: str = "texts.txt") -> Path:
    path = tmp_path / name
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def evaluate(tmp_path: Path, data: Path, **changes: Any) -> dict[str, Any]:
    values = {"input": str(data), "output": tmp_path / "out", "metrics": ("bleu", "rouge_l", "slots"), **changes}
    return run(EvaluateSettings(**values))


def test_given_texts_are_scored_and_shown(data: Path, tmp_path: Path) -> None:
    result = evaluate(tmp_path, data, texts=written(tmp_path, TEXTS))
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert scores == result["all"]
    assert set(scores["bleu"]) == {"value", "low", "high", "signature"}
    assert scores["bleu"]["value"] == bleu(TEXTS, [texts for _, _, texts in ROWS]).value
    assert scores["slots"]["value"] == pytest.approx(2 / 6), "a shop made a restaurant, and no type at all"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert '<mark title="name: Giraffe">Giraffe</mark> &lt;b&gt;&amp; co' in page, "a text cannot become markup"
    assert page.index("record The Mill") > max(page.index("record Giraffe"), page.index("record Blue Spice"))
    assert '<span class="fact missing" title="missing">eatType: coffee shop' in page
    assert 'The <mark title="name: The Mill">Mill</mark> is a <mark title="eatType: pub">pub</mark>' in page


@pytest.mark.parametrize("name", ["texts.json", "texts.txt", "texts.jsonl.gz"])
def test_json_is_scored_by_its_texts_under_any_name(name: str, data: Path, tmp_path: Path) -> None:
    content = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    plain = evaluate(tmp_path, data, texts=written(tmp_path, TEXTS))
    result = evaluate(tmp_path, data, texts=path, against=path)
    assert result["all"] == plain["all"]
    assert result["against"]["bleu"]["difference"] == 0


def test_named_rows_are_scored_against_their_records(data: Path, tmp_path: Path) -> None:
    rows = [{"id": name, "predict": texts[0]} for name, _, texts in reversed(ROWS)]
    shuffled = written(tmp_path, [json.dumps(row) for row in rows], "texts.jsonl")
    assert evaluate(tmp_path, data, texts=shuffled)["all"]["bleu"]["value"] == 1
    other = written(tmp_path, [json.dumps({"said": {"as": row["predict"]}}) for row in rows[::-1]], "other.jsonl")
    result = evaluate(tmp_path, data, texts=other, text_key="said.as", against=other, against_key="said.as")
    assert result["all"]["bleu"]["value"] == 1


def test_texts_that_are_all_empty_are_scored(data: Path, tmp_path: Path) -> None:
    assert evaluate(tmp_path, data, texts=written(tmp_path, ["", "", ""]))["all"]["bleu"]["value"] == 0


def test_another_system_is_compared(data: Path, tmp_path: Path) -> None:
    perfect = [texts[0] for _, _, texts in ROWS]
    jsonl = written(tmp_path, [json.dumps({"text": text}) for text in perfect], "others.jsonl")
    against = evaluate(tmp_path, data, texts=written(tmp_path, TEXTS), against=jsonl)["against"]
    assert list(against) == ["bleu", "rouge_l", "slots"]
    assert against["bleu"]["difference"] < 0 < against["slots"]["difference"]


def test_texts_are_written_where_none_are_given(data: Path, tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    result = evaluate(tmp_path, data, base=str(tmp_path / "base"), max_new_tokens=4, beams=2, rerank="fidelity")
    rows = [json.loads(line) for line in (tmp_path / "out" / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [name for name, _, _ in ROWS]
    assert all(len(row["candidates"]) == 2 for row in rows)
    assert result["records"] == 3


def test_groups_that_training_had_and_those_it_had_not(tmp_path: Path) -> None:
    def save(name: str, groups: list[str]) -> None:
        entry = '<entry category="{}" eid="Id{}"><modifiedtripleset><mtriple>A | b | C</mtriple></modifiedtripleset>'
        entry += '<lex comment="good">A b C {}</lex></entry>'
        entries = "".join(entry.format(group, number, number) for number, group in enumerate(groups))
        (tmp_path / f"{name}.xml").write_text(f"<benchmark><entries>{entries}</entries></benchmark>", encoding="utf-8")

    save("train", ["Airport"])
    save("test", ["Airport", "Artist", "Airport"])
    count = len(record_files.read(tmp_path, split="test"))
    assert count == 3
    texts = written(tmp_path, ["A b C 0", "no", "A b C 2"])
    result = evaluate(tmp_path, tmp_path, split="test", texts=texts, metrics=("rouge_l",))
    values = [result[part]["rouge_l"]["value"] for part in ("all", "seen", "unseen")]
    assert values == pytest.approx([2 / 3, 1, 0])
    assert json.loads((tmp_path / "out" / "scores.unseen.json").read_text(encoding="utf-8")) == result["unseen"]


def tables(folder: Path) -> Path:
    """Splits as tables whose columns have other names, one of the test groups being in training too."""
    folder.mkdir()
    for split, kinds in {"train": "pub", "test": "pub shop"}.items():
        rows = "".join(f"The {kind},{kind},The {kind} is a {kind} .\n" for kind in kinds.split())
        (folder / f"{split}.csv").write_text(f"name,cat,ref\n{rows}", encoding="utf-8")
    return folder


def test_training_s_groups_are_read_as_the_records_are(tmp_path: Path) -> None:
    folder = tables(tmp_path / "tables")
    columns = {"text": "ref", "group": "cat"}
    texts = written(tmp_path, ["The pub is a pub .", "no"])
    result = evaluate(tmp_path, folder, split="test", columns=columns, texts=texts, metrics=("rouge_l",), limit=2)
    assert [result[part]["rouge_l"]["value"] for part in ("seen", "unseen")] == [1, 0]


def test_training_data_from_elsewhere(tmp_path: Path) -> None:
    folder = tables(tmp_path / "tables")
    (folder / "train.csv").rename(tmp_path / "elsewhere.csv")
    columns = {"text": "ref", "group": "cat"}
    texts = written(tmp_path, ["The pub is a pub .", "It is the shop ."])
    common = {"split": "test", "columns": columns, "texts": texts}
    assert "seen" not in evaluate(tmp_path, folder, **common, metrics=("rouge_l",))
    train = str(tmp_path / "elsewhere.csv")
    result = evaluate(tmp_path, folder, **common, train=train, metrics=("rouge_l", "parent_c", "parent", "msttr"))
    assert result["seen"]["rouge_l"]["value"] == 1
    assert result["seen"]["parent_c"]["value"] == pytest.approx(1)
    assert result["all"]["parent_c"]["value"] != result["all"]["parent"]["value"]
    assert "|entailment:cooccurrence:1|" in result["all"]["parent_c"]["signature"]
    with pytest.raises(DataError, match=r"PARENT-C needs training data.*--train"):
        evaluate(tmp_path, folder, **common, metrics=("parent_c",))


@pytest.mark.parametrize("name", ["parent", "copied", "slots"])
def test_scores_that_need_facts_are_refused_without_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "A pub", "completion": "It is a pub ."}\n', encoding="utf-8")
    with pytest.raises(DataError, match=f"needs facts.*leave {name} out"):
        evaluate(tmp_path, path, texts=written(tmp_path, ["It is a pub ."]), metrics=(name,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"against": "none.txt"}, "there is no such file"),
        ({"slot_rules": "none.yaml"}, "none.yaml"),
        ({"output": "test.jsonl"}, "File exists|Not a directory"),
        ({"card": "e2e"}, "is not the record of a training run"),
        ({"metrics": ("meteor",)}, "METEOR (needs|comes with)"),
    ],
)
def test_what_cannot_be_scored_fails_before_texts_are_written(
    changes: dict[str, Any], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object, **__: object) -> None:
        raise AssertionError("texts were written first")

    monkeypatch.setattr("tailora.commands.evaluate.TextJob", write)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises((UserError, OSError), match=message):
        evaluate(tmp_path, data, adapter=("adapter",), **changes)


def test_a_train_split_that_cannot_be_read_is_reported_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tables(tmp_path / "tables")
    (folder / "train.csv").write_text("name,ref\nx,y\n", encoding="utf-8")
    monkeypatch.setattr("tailora.commands.evaluate.TextJob", lambda *_, **__: pytest.fail("texts were written first"))
    with pytest.raises(DataError, match=r"train.csv"):
        evaluate(tmp_path, folder, split="test", columns={"text": "ref", "group": "cat"}, base="tiny")


def test_a_metric_that_cannot_be_had_says_so_and_the_others_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise MissingExtraError("METEOR needs Java", hint="install it")

    monkeypatch.setitem(suite._OTHERS, "meteor", fail)
    result = evaluate(tmp_path, data, texts=written(tmp_path, TEXTS), metrics=("meteor", "bleu"))
    assert result["all"]["meteor"]["value"] is None
    assert "Java" in result["all"]["meteor"]["missing"]
    assert result["all"]["bleu"]["value"] > 0


def test_every_metric_has_a_name_to_choose() -> None:
    assert set(get_args(suite.MetricName)) == set(METRICS)


def test_the_field_s_usual_scores(data: Path) -> None:
    records = record_files.read(data)
    assert suite.usual(records) == ("bleu", "nist", "meteor", "rouge_l", "cider", "slots")


def test_marks_stand_where_they_are_and_none_within_another() -> None:
    marks = [(0, 3, "name: <Ada>", False), (2, 5, "near: x", False), (9, 12, "eatType: pub", True)]
    told = marked("Ada is a pub & more", marks)
    assert told == (
        '<mark title="name: &lt;Ada&gt;">Ada</mark> is a '
        '<mark class=invented title="eatType: pub">pub</mark> &amp; more'
    )
    assert marked("", []) == "(no text)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": None}, "input: has no value"),
        ({"output": None}, "output: has no value"),
        ({"texts": None}, "no adapter and no base model named"),
        ({"base": "tiny"}, "base has no effect on texts that are already written"),
        ({"beams": 4}, "beams has no effect on texts that are already written"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        evaluate(tmp_path, data, **{"texts": tmp_path / "texts.txt", **changes})


def test_files_that_do_not_fit(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains 2 texts for 3 records"):
        evaluate(tmp_path, data, texts=written(tmp_path, TEXTS[:2]))
    with pytest.raises(DataError, match=r"broken.jsonl:1: has no 'text'"):
        evaluate(tmp_path, data, texts=written(tmp_path, ["{}"], "broken.jsonl"))
    with pytest.raises(DataError, match=r"nowhere.txt: there is no such file; check the path"):
        evaluate(tmp_path, data, texts=tmp_path / "nowhere.txt")
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"facts": {"name": "x"}}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no reference"):
        evaluate(tmp_path, bare, texts=written(tmp_path, ["x"]))


def test_one_candidate_cannot_be_reranked() -> None:
    with pytest.raises(SettingsError, match="one candidate"):
        GenerateSettings(base="tiny", record="name : x", rerank="fidelity")


def test_a_card_stands_beside_the_paper_and_names_what_differs(data: Path, tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    run_folder = tmp_path / "run"
    settings = {"rank": 8, "alpha": 32.0, "targets": ["attention.qv"], "method": "lora", "limit": None}
    (run_folder / "adapter").mkdir(parents=True)
    write_json(run_folder / "run.json", {"settings": settings, "account": {"base": "tiny"}})
    used = {**training_settings(run_folder), "beams": 10}
    assert training_settings(run_folder / "adapter") == training_settings(run_folder)
    scores = {"all": {"bleu": 0.6616, "nist": 8.5446, "rouge_l": 0.69}}
    (_, head, rows), (_, _, differing) = card("e2e", scores, used, METRICS)
    assert head == ["", "BLEU", "NIST", "METEOR", "ROUGE-L", "CIDEr"]
    assert rows[0] == ["measured here", "66.2", "8.54", "–", "69.0", "–"]
    assert rows[1] == ["GPT-2 M, LoRA (paper)", "70.4", "8.85", "46.8", "71.8", "2.53"]
    assert all(len(row) == len(head) for row in rows)
    named = {row[0]: row[1:] for row in differing}
    assert named["base"] == ["gpt2-medium", "tiny"]
    assert named["rank"] == ["4", "8"]
    assert named["epochs"] == ["5", "not known"]
    assert not {"alpha", "targets", "beams", "method", "limit"} & set(named)
    result = evaluate(tmp_path, data, base=str(tmp_path / "base"), max_new_tokens=4, card="e2e", metrics=("bleu",))
    markdown = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert f"| measured here | {100 * result['all']['bleu']['value']:.1f} |" in markdown
    assert "| beams | 10 | 1 |" in markdown
    assert "GPT-2 M, LoRA (paper)" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_cards_of_data_with_parts() -> None:
    scores = {part: {"multi_bleu": 0.5} for part in ("all", "seen")}
    ((_, head, rows), _) = card("webnlg", scores, {}, METRICS)
    assert head[1:] == ["multi-BLEU, unseen", "multi-BLEU, seen", "multi-BLEU, all"]
    assert rows[0][1:] == ["–", "50.0", "50.0"]
    assert rows[1][1:] == ["46.7", "62.1", "55.3"]
    assert card("dart", scores, {}, METRICS)[0][2][1][1:] == ["47.1"]


@pytest.mark.parametrize(("tokenizer", "used"), [(None, "zh"), ("char", "char")])
def test_texts_without_spaces_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: Any, used: str
) -> None:
    row = {"facts": {"名称": "蓝门", "类型": "酒吧"}, "texts": ["蓝门是一家酒吧。"]}
    (tmp_path / "zh.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (tmp_path / "texts.txt").write_text("蓝门是河边的一家酒吧。\n", encoding="utf-8")
    settings = EvaluateSettings(
        input=str(tmp_path / "zh.jsonl"), texts=tmp_path / "texts.txt", output=tmp_path / "scores", tokenizer=tokenizer
    )
    found = run(settings)["all"]
    assert found["slots"]["value"] == 0
    assert found["bleu"]["value"] > 0.2
    assert f"|tok:{used}|" in f"|{found['bleu']['signature']}|"
    assert found["meteor"]["value"] is None
    assert "does not apply to Chinese" in found["meteor"]["missing"]
    assert f"The tokenizer is {used}" in " ".join(capsys.readouterr().err.split())
    assert f"The tokenizer is {used}" in (tmp_path / "scores" / "report.html").read_text(encoding="utf-8")


GROUPED = [
    ("The Mill", "The Mill is a pub ."),
    ("Blue Spice", "Blue Spice is a pub ."),
    ("The Mill", "A pub : The Mill ."),
    ("Giraffe", "Giraffe is a restaurant ."),
    ("The Mill", "There is The Mill ."),
]
BY_RECORD = ["The Mill is a pub .", "Blue Spice .", "Giraffe is one ."]
BY_ROW = [BY_RECORD[0], BY_RECORD[1], BY_RECORD[0], BY_RECORD[2], BY_RECORD[0]]
FORMS = {
    "grouped.csv": "name,text\n" + "".join(f"{name},{text}\n" for name, text in GROUPED),
    "mr.csv": "mr,ref\n" + "".join(f"name[{name}],{text}\n" for name, text in GROUPED),
    "grouped.txt": "".join(f"name : {name}||{text}\n" for name, text in GROUPED),
    "grouped.jsonl": "".join(json.dumps({"facts": {"name": name}, "text": text}) + "\n" for name, text in GROUPED),
    "flat.jsonl": "".join(json.dumps({"name": name, "text": text}) + "\n" for name, text in GROUPED),
    "grouped.json": json.dumps([{"facts": {"name": name}, "text": text} for name, text in GROUPED], indent=1),
}


@pytest.fixture(params=FORMS)
def grouped(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same five rows, three of them about one record, in every format."""
    path = tmp_path / str(request.param)
    path.write_text(FORMS[request.param], encoding="utf-8")
    return path


def as_rows(texts: list[str], ids: list[str] | None = None) -> list[str]:
    names = ids or [str(number) for number in range(1, len(texts) + 1)]
    return [json.dumps({"id": name, "text": text}) for name, text in zip(names, texts, strict=True)]


def test_every_format_gives_the_same_score_by_record_and_by_row(grouped: Path, tmp_path: Path) -> None:
    references = [
        [text for name, text in GROUPED if name == wanted] for wanted in ("The Mill", "Blue Spice", "Giraffe")
    ]
    expected = bleu(BY_RECORD, references).value
    given = {
        "record.txt": BY_RECORD,
        "row.txt": BY_ROW,
        "record.jsonl": as_rows(BY_RECORD, ["1", "2", "4"]),
        "row.jsonl": as_rows(BY_ROW),
        "shuffled.jsonl": as_rows(BY_ROW)[::-1],
        "shuffled-records.jsonl": as_rows(BY_RECORD, ["1", "2", "4"])[::-1],
        "without-ids.jsonl": [json.dumps({"text": text}) for text in BY_ROW],
    }
    for name, lines in given.items():
        result = evaluate(tmp_path, grouped, texts=written(tmp_path, lines, name), metrics=("bleu",))
        assert result["records"] == 3, name
        assert result["all"]["bleu"]["value"] == expected, name


def test_rows_with_texts_of_their_own_are_scored_against_all_references(grouped: Path, tmp_path: Path) -> None:
    texts = [*BY_ROW[:2], "Something else .", *BY_ROW[3:]]
    references = [[text for name, text in GROUPED if name == wanted] for wanted, _ in GROUPED]
    for given in (texts, as_rows(texts), as_rows(texts)[::-1]):
        path = written(tmp_path, given, "row.jsonl" if given is not texts else "row.txt")
        result = evaluate(tmp_path, grouped, texts=path, metrics=("bleu",))
        assert result["records"] == 5
        assert result["all"]["bleu"]["value"] == bleu(texts, references).value
    other = written(tmp_path, BY_RECORD, "by-record.txt")
    against = evaluate(tmp_path, grouped, texts=path, against=other, metrics=("bleu",))["against"]["bleu"]
    assert against["difference"] == pytest.approx(bleu(texts, references).value - bleu(BY_ROW, references).value)


@pytest.mark.parametrize("form", ["texts.txt", "texts.jsonl", "texts.json"])
def test_counts_that_are_neither_of_records_nor_of_rows_are_refused(grouped: Path, tmp_path: Path, form: str) -> None:
    for count in (1, 2, 4, 6, 7):
        texts = [f"Text {number} ." for number in range(count)]
        lines = {"texts.txt": texts, "texts.jsonl": as_rows(texts), "texts.json": [json.dumps(texts)]}[form]
        message = (
            rf"contains {count} texts? for 3 records \(5 rows\).*give one text for each record, or one for each row"
        )
        with pytest.raises(DataError, match=message):
            evaluate(tmp_path, grouped, texts=written(tmp_path, lines, form), metrics=("bleu",))


def test_texts_of_the_first_rows_are_not_taken_for_the_first_records(grouped: Path, tmp_path: Path) -> None:
    first = written(tmp_path, as_rows(BY_ROW[:2]), "first.jsonl")
    assert evaluate(tmp_path, grouped, texts=first, limit=2, metrics=("bleu",))["records"] == 2
    three = written(tmp_path, as_rows(BY_ROW[:3]), "three.jsonl")
    with pytest.raises(DataError, match=r"texts for the first 3 rows, which are not the first 3 records.*--gather"):
        evaluate(tmp_path, grouped, texts=three, limit=3, metrics=("bleu",))


@pytest.mark.parametrize("by_row", [False, True])
def test_groups_survive_columns_and_texts_by_row(tmp_path: Path, by_row: bool) -> None:
    folder = tmp_path / "places"
    folder.mkdir()
    rows = {
        "train": [("Mill", "pub", "Mill .")],
        "test": [
            ("Mill", "pub", "Mill a ."),
            ("Oak", "shop", "Oak a ."),
            ("Mill", "pub", "Mill b ."),
            ("Ash", "pub", "Ash ."),
        ],
    }
    for split, members in rows.items():
        lines = "".join(f"{name},{kind},{text}\n" for name, kind, text in members)
        (folder / f"{split}.csv").write_text(f"Title,Kind,Said\n{lines}", encoding="utf-8")
    columns = {"text": "said", "group": "kind", "facts": {"Title": "name"}}
    texts = ["Mill a .", "no", "Mill b .", "Ash ."] if by_row else ["Mill a .", "no", "Ash ."]
    ways: dict[str, Any] = {"split": "test", "columns": columns, "metrics": ("rouge_l",)}
    result = evaluate(tmp_path, folder, texts=written(tmp_path, texts), **ways)
    assert [result[part]["rouge_l"]["value"] for part in ("seen", "unseen")] == [1, 0]
    assert result["records"] == len(texts)


def test_every_reading_flag_goes_with_given_texts() -> None:
    values: dict[str, Any] = {"columns": {"text": "ref"}, "language": "en", "all_texts": True, "format": "csv"}
    assert set(values) == set(ReadingSettings.model_fields), "give the new reading flag a value here"
    where = {"input": "a", "split": "test", "texts": Path("b"), "output": Path("c"), "slot_rules": Path("d")}
    settings = EvaluateSettings(**where, limit=3, **values)
    assert {name: getattr(settings, name) for name in values} == values
    names = set(EvaluateSettings.model_fields) & set(GenerateSettings.model_fields) - {*values, *where, "limit"}
    for name in names:
        default = GenerateSettings.model_fields[name].get_default(call_default_factory=True)
        with pytest.raises(SettingsError, match="has no effect on texts that are already written"):
            EvaluateSettings(**where, **{name: default})


@pytest.mark.parametrize("name", ["grouped.csv", "flat.jsonl"])
def test_what_generate_wrote_is_scored_as_evaluate_itself_scores_it(name: str, tmp_path: Path) -> None:
    grouped = tmp_path / name
    grouped.write_text(FORMS[name], encoding="utf-8")
    how: dict[str, Any] = {"base": "tiny", "max_new_tokens": 8, "precision": "fp32"}
    for gather, count in ((False, 5), (True, 3)):
        outputs = tmp_path / f"outputs-{count}.jsonl"
        generate(GenerateSettings(input=str(grouped), output=outputs, gather=gather, **how))
        assert len(outputs.read_text(encoding="utf-8").splitlines()) == count
        by_texts = evaluate(tmp_path, grouped, texts=outputs, metrics=("bleu", "chrf", "slots"))
        by_itself = evaluate(tmp_path, grouped, metrics=("bleu", "chrf", "slots"), **how)
        assert by_texts["records"] == by_itself["records"] == 3
        assert by_texts["all"] == by_itself["all"]
        assert by_texts["all"]["chrf"]["value"] > 0


def test_references_are_read_with_the_columns_of_training(tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    kept = {"format": None, "columns": {"text": "ref", "facts": ["name"]}, "language": None}
    adapter = save_adapter(tmp_path / "run" / "adapter", str(tmp_path / "base"), meta={**META, "reading": kept})
    table = tmp_path / "test.csv"
    table.write_text("name,note,ref\nThe Mill,x,A pub.\nThe Mill,y,A small pub.\n", encoding="utf-8")
    result = evaluate(tmp_path, table, adapter=(str(adapter),), max_new_tokens=2, metrics=("bleu",))
    assert result["records"] == 1, "the notes are no facts"
    assert "refs:2" in result["all"]["bleu"]["signature"]
