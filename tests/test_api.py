"""The Python API beside the command line: the same texts, scores and errors; data frames, threads, interrupts."""

from __future__ import annotations

import datetime
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tailora
from tailora.api.commands import _folder_for_rows
from tailora.cli import main
from tailora.core.errors import DataError
from tailora.data.records import DataWarning

ROWS = [
    {"name": "Blue Spice", "eatType": "pub", "area": "riverside"},
    {"name": "The Mill", "eatType": "restaurant", "food": "French"},
    {"name": "Zizzi", "eatType": "coffee shop", "priceRange": "cheap"},
]
TEXTS = ["Blue Spice is a pub by the river.", "The Mill serves French food.", "Zizzi is a cheap coffee shop."]
PAIRS = [{**row, "text": text} for row, text in zip(ROWS, TEXTS, strict=True)]
QUICK: dict[str, Any] = {"max_steps": 3, "batch_size": 2, "learning_rate": 5e-3, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tailora.TrainingRun:
    folder = tmp_path_factory.mktemp("run")
    return tailora.train(PAIRS, valid=PAIRS[:2], output=folder / "shop", **QUICK)


def test_a_run_shows_what_was_learnt(run: tailora.TrainingRun) -> None:
    assert run.adapter == run.folder / "adapter"
    assert (run.adapter / "adapter_config.json").is_file()
    assert [line["step"] for line in run.history if "loss" in line] == [1, 2, 3]
    last = [line["validation_loss"] for line in run.history if "validation_loss" in line][-1]
    assert run.validation_loss == pytest.approx(last, rel=1e-6)
    assert len(run.plot().axes[0].lines) == 2
    assert run.plot()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]  # as a notebook asks for it
    assert "validation loss" in run._repr_html_()
    assert tailora.TrainingRun.open(run.folder).result == json.loads((run.folder / "run.json").read_text("utf-8"))


def test_a_run_is_a_small_value(run: tailora.TrainingRun) -> None:
    packed = pickle.dumps(run)
    assert len(packed) < 10_000
    assert pickle.loads(packed) == run


def test_training_is_that_of_the_command_line(
    run: tailora.TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rows in (("train", PAIRS), ("valid", PAIRS[:2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    paths = [f"--data={tmp_path / 'train.jsonl'}", f"--valid={tmp_path / 'valid.jsonl'}"]
    assert main(["train", *paths, f"--output={tmp_path / 'out'}", *flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["validation_loss"] == run.result["validation_loss"]
    weights = "adapter_model.safetensors"
    assert (tmp_path / "out" / "adapter" / weights).read_bytes() == (run.adapter / weights).read_bytes()


def test_a_plan_is_that_of_the_command_line_and_of_the_run(
    run: tailora.TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    planned = tailora.plan(PAIRS, valid=PAIRS[:2], **QUICK)
    assert not list(empty.iterdir())
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    assert (
        main(["plan", f"--data={tmp_path / 'rows.jsonl'}", f"--valid={tmp_path / 'rows.jsonl'}", *flags, "--json"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    account = run.result["account"]
    assert planned["fits"] is printed["fits"] is True
    for name in account.keys() - {"estimate", "base_fingerprint"}:  # the process has grown, and times are measured
        assert json.loads(json.dumps(planned[name])) == printed[name]
        assert planned[name] == account[name]
    settings = dict(planned["settings"])
    assert settings["recipe"] == run.result["settings"]["recipe"]
    assert settings["learning_rate"] == run.result["settings"]["learning_rate"]
    assert {"data", "valid"}.isdisjoint(settings)  # rows in memory
    assert tailora.plan(PAIRS, valid=PAIRS[:2], **settings)["steps"] == planned["steps"]


def test_a_plan_that_does_not_fit_is_a_result() -> None:
    planned = tailora.plan(PAIRS, memory_limit=0.125, **QUICK)
    assert planned["fits"] is False
    assert "the limit is" in planned["problem"]
    assert planned["alternatives"] == []
    assert planned["hint"].startswith("raise --memory-limit; Python, its libraries and the data alone take ")


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize(
    "decoding", [{}, {"beams": 3}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "beams", "drawn"]
)
def test_texts_are_those_of_the_command_line(
    run: tailora.TrainingRun, tmp_path: Path, backend: Any, decoding: dict[str, Any]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    flags = [f"--{name}={value}" for name, value in {**decoding, "backend": backend, "precision": "fp32"}.items()]
    where = [f"--input={path}", f"--output={tmp_path / 'out.jsonl'}", f"--adapter={run.adapter}", "--max-new-tokens=12"]
    assert main(["generate", *where, *flags]) == 0
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    with tailora.load(adapters={"shop": run}, backend=backend, precision="fp32") as model:
        assert (model.base, model.adapters, model.backend, model.precision) == ("tiny", ("shop",), backend, "fp32")
        for source in (ROWS, path, str(path), [tailora.Record(str(n), _facts(row), ()) for n, row in enumerate(ROWS)]):
            texts = model.generate(source, max_new_tokens=12, **decoding)
            assert texts == [row["text"] for row in written]
        assert [list(text.token_ids) for text in texts] == [row["token_ids"] for row in written]
        assert [text.finish_reason for text in texts] == [row["finish_reason"] for row in written]
        assert [text.logprob for text in texts] == pytest.approx([row["logprob"] for row in written], abs=1e-4)
        alone = model.generate(ROWS[1], max_new_tokens=12, **decoding)
        assert isinstance(alone, tailora.Text)
        assert alone == texts[1]
        assert "".join(model.stream(ROWS[1], max_new_tokens=12, **decoding)).strip() == alone


def _facts(row: dict[str, str]) -> tuple[tailora.Fact, ...]:
    return tuple(tailora.Fact(None, attribute, value) for attribute, value in row.items())


def test_a_text_pickles_with_what_is_known_of_it(run: tailora.TrainingRun) -> None:
    with tailora.load(adapters=run, precision="fp32") as model:
        text = model.generate(ROWS[0], max_new_tokens=5, beams=2, num_candidates=2)
    again = pickle.loads(pickle.dumps(text))
    assert (again, again.token_ids, again.candidates) == (text, text.token_ids, text.candidates)
    assert len(again.candidates) == 2
    assert json.loads(json.dumps({"text": text})) == {"text": str(text)}


def test_base_and_adapter_are_named(run: tailora.TrainingRun) -> None:
    with tailora.load("tiny", adapters={"shop": run.adapter}, precision="fp32") as model:
        own = model.generate(ROWS, adapter="shop", max_new_tokens=8)
        base = model.generate(ROWS, adapter=tailora.BASE, max_new_tokens=8)
        assert [text.adapter for text in (*own, *base)] == ["shop"] * 3 + [None] * 3
        assert own == model.generate(ROWS, max_new_tokens=8)
        facts = [{"facts": ROWS[0], "adapter": None}, {"facts": ROWS[0], "adapter": "shop"}]
        assert model.generate(facts, max_new_tokens=8) == [base[0], own[0]]
        with pytest.raises(
            tailora.SettingsError, match=r"there is no adapter 'other'; choose one of: 'shop', tailora\.BASE"
        ):
            model.generate(ROWS, adapter="other")
        with pytest.raises(tailora.SettingsError, match=r"^beams: "):
            model.generate(ROWS, beams=0)
    with pytest.raises(tailora.SettingsError, match="the model is closed"):
        model.generate(ROWS)


@pytest.mark.parametrize("adapted", [{"merged": True}, {"dora": True}])
def test_an_adapter_in_the_network_stays(run: tailora.TrainingRun, tmp_path: Path, adapted: dict[str, bool]) -> None:
    if "dora" in adapted:
        run = tailora.train(PAIRS, output=tmp_path / "dora", dora=True, **QUICK)
    merged = adapted.get("merged", False)
    with tailora.load("tiny", adapters={"shop": run}, precision="fp32", backend="torch", merged=merged) as model:
        with pytest.raises(tailora.AdapterError, match="shop: the adapter is part of the network"):
            model.remove_adapter("shop")
        with pytest.raises(tailora.AdapterError, match="shop: the adapter is part of the network"):
            model.add_adapter("other", run)
        with pytest.raises(tailora.DataError, match="is part of the network, so its effect cannot be weighted"):
            model.generate(ROWS, adapter={"shop": 0.5}, max_new_tokens=2)
        whole = model.generate(ROWS, adapter={"shop": 1}, max_new_tokens=2)
        assert whole == model.generate(ROWS, adapter="shop", max_new_tokens=2)


def test_adapters_come_and_go(run: tailora.TrainingRun) -> None:
    with tailora.load("tiny", extra_adapters=1, max_rank=64, precision="fp32") as model:
        base = model.generate(ROWS, max_new_tokens=8)
        model.add_adapter("shop", run)
        with pytest.raises(tailora.SettingsError, match="already"):
            model.add_adapter("shop", run)
        texts = model.generate(ROWS, adapter="shop", max_new_tokens=8)
        model.remove_adapter("shop")
        assert model.generate(ROWS, max_new_tokens=8) == base
        with pytest.raises(tailora.SettingsError, match="there is no adapter 'shop'"):
            model.remove_adapter("shop")
    with tailora.load("tiny", adapters={"shop": run}, precision="fp32") as model:
        assert model.generate(ROWS, max_new_tokens=8) == texts


def test_a_model_is_not_pickled(run: tailora.TrainingRun) -> None:
    with (
        tailora.load(adapters=run, precision="fp32") as model,
        pytest.raises(TypeError, match="load it in each process"),
    ):
        pickle.dumps(model)


def test_threads_share_a_model(run: tailora.TrainingRun) -> None:
    with tailora.load(adapters={"shop": run}, precision="fp32") as model:
        alone = [model.generate(row, max_new_tokens=10) for row in ROWS]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda row: model.generate(row, max_new_tokens=10), ROWS * 4))
            streamed = list(pool.map(lambda row: "".join(model.stream(row, max_new_tokens=10)).strip(), ROWS * 4))
    assert together == alone * 4 == streamed


def test_a_stream_and_a_prompt_take_one_record(run: tailora.TrainingRun) -> None:
    with tailora.load(adapters={"shop": run}) as model:
        with pytest.raises(DataError, match="record: contains 3 records; give one record for each call"):
            model.stream(ROWS)  # type: ignore[arg-type]  # as a user may write it
        with pytest.raises(DataError, match="record: contains 3 records"):
            model.prompt_ids(ROWS)  # type: ignore[arg-type]


def test_a_stream_that_is_left_is_cancelled(run: tailora.TrainingRun) -> None:
    with tailora.load(adapters={"shop": run}, precision="fp32") as model:
        pieces: Any = model.stream(ROWS[0], max_new_tokens=400)
        next(pieces)
        pieces.close()
        assert model._worker.call(lambda engine: engine.idle)


def test_scores_are_those_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records, texts = tmp_path / "records.jsonl", tmp_path / "texts.txt"
    records.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    mine = [TEXTS[0], "The Mill.", "Zizzi is a coffee shop."]
    texts.write_text("\n".join(mine) + "\n", encoding="utf-8")
    where = [f"--input={records}", f"--texts={texts}", f"--output={tmp_path / 'out'}"]
    assert main(["evaluate", *where, "--metrics=bleu,rouge_l,slots", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    for source in (PAIRS, records, tailora.read_records(PAIRS)):
        scores = tailora.evaluate(mine, source, metrics=("bleu", "rouge_l", "slots"))
        assert scores.result == result["all"]
    assert scores["bleu"].value == result["all"]["bleu"]["value"]
    assert set(scores) == {"bleu", "rouge_l", "slots"}
    assert scores.records == 3
    assert "95% interval" in repr(scores)
    assert "<table>" in scores._repr_html_()
    assert "record 2" in scores.report(tmp_path / "report.html").read_text("utf-8")
    assert pickle.loads(pickle.dumps(scores)).result == scores.result
    compared = tailora.evaluate(mine, PAIRS, metrics="bleu", against=TEXTS)
    assert compared.against is not None
    assert compared.against["bleu"]["difference"] < 0


def test_several_systems_are_those_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    systems = {"good": TEXTS, "bad": [TEXTS[0], "The Mill.", "Zizzi is a coffee shop."]}
    for name, own in systems.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(own) + "\n", encoding="utf-8")
    output = tmp_path / "out"
    where = [*(str(tmp_path / f"{name}.txt") for name in systems), f"--input={records}", f"--output={output}"]
    assert main(["evaluate", *where, "--metrics=bleu,slots", "--draws=200", "--json"]) == 0
    result = json.loads((output / "scores.json").read_text("utf-8"))
    files = {name: tmp_path / f"{name}.txt" for name in systems}
    for texts in (systems, files):
        scores = tailora.evaluate(texts, PAIRS, metrics=("bleu", "slots"), draws=200)
        assert scores.result == result
    assert (list(scores), scores.records) == (["good", "bad"], 3)
    assert scores["bad"]["bleu"].low < scores["good"]["bleu"].value == 1.0
    assert {(pair.metric, pair.first, pair.second) for pair in scores.differences} == {
        ("bleu", "good", "bad"),
        ("slots", "good", "bad"),
    }
    assert "A. good" in repr(scores)
    assert "<table>" in scores._repr_html_()
    assert scores.latex == (output / "scores.tex").read_text("utf-8")
    assert "Texts side by side" in scores.report(tmp_path / "report.html").read_text("utf-8")
    assert pickle.loads(pickle.dumps(scores)).result == scores.result
    with pytest.raises(tailora.DataError, match="leave out against"):
        tailora.evaluate(systems, PAIRS, against=TEXTS)
    with pytest.raises(tailora.DataError, match="bad: 2 texts for 3 records"):
        tailora.evaluate(systems | {"bad": TEXTS[:2]}, PAIRS)
    with pytest.raises(tailora.DataError, match=r"is a folder without outputs.jsonl; write the texts of a model"):
        tailora.evaluate({"good": output}, PAIRS)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (TEXTS[:2], "texts: 2 texts for 3 records; give one text for each record or row"),
        ([*TEXTS[:2], None], "texts[2]: is of type NoneType, not a text; give a list of strings"),
    ],
    ids=["few", "none"],
)
def test_texts_that_do_not_fit_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(tailora.DataError) as caught:
        tailora.evaluate(texts, PAIRS)
    assert str(caught.value) == message


def test_rows_with_equal_facts_are_one_record() -> None:
    rows = [{**ROWS[0], "text": text} for text in ("It is a pub.", "A pub it is.")] + PAIRS[1:]
    records = tailora.read_records(rows)
    assert [record.references for record in records] == [("It is a pub.", "A pub it is."), (TEXTS[1],), (TEXTS[2],)]
    by_record = tailora.evaluate(["It is a pub.", *TEXTS[1:]], rows, metrics="bleu")
    by_row = tailora.evaluate(["It is a pub.", "It is a pub.", *TEXTS[1:]], rows, metrics="bleu")
    assert by_record.result == by_row.result
    assert by_record["bleu"].value == 1.0


def test_a_data_frame_is_read_as_the_file_that_it_writes(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "name": ["Ada", "Bob", "Cy"],
            "short": np.array([0.1, 2.5, np.nan], dtype=np.float32),
            "shorter": np.array([0.1, 0.2, 0.3], dtype=np.float16),
            "born": pandas.to_datetime(["2024-01-01", None, "2024-05-02"]),
            "seen": pandas.to_datetime(["2024-01-01 00:00", "2024-05-02 12:30", None]),
            "zone": pandas.to_datetime(["2024-01-01 00:00"] * 3).tz_localize("UTC"),
            "took": pandas.to_timedelta([1, 2, None], unit="D"),
            "whole": pandas.array([1, None, 3], dtype="Int64"),
            "kind": pandas.Categorical(["x", None, "y"]),
            "is_open": [True, None, False],
            "price": [1e20, 1e-7, 1.5],
        },
        index=[7, 7, 9],
    )
    frame.to_csv(tmp_path / "rows.csv", index=False)
    expected = tailora.read_records(tmp_path / "rows.csv", texts="unused")
    assert tailora.read_records(frame, texts="unused") == expected
    values = {fact.attribute: fact.value for fact in expected[0].facts}
    assert (values["short"], values["born"], values["seen"]) == ("0.1", "2024-01-01", "2024-01-01 00:00:00")
    for row in (
        {"short": np.float32(0.1), "born": frame["born"].iloc[0], "list": np.array([0.1], dtype=np.float32)},
        {"short": 0.1, "born": datetime.datetime(2024, 1, 1), "list": [0.1]},
    ):
        facts = tailora.read_records(row, texts="unused")[0].facts
        assert [fact.value for fact in facts] == ["0.1", "2024-01-01", "0.1"]
    with pytest.warns(DataWarning, match="'stars' has missing values, for which pandas turns whole numbers"):
        tailora.read_records(pandas.DataFrame({"name": ["A", "B"], "stars": [3, None]}), texts="unused")
    twice = pandas.DataFrame([["x", "y"]], columns=["name", "name"])
    with pytest.raises(DataError, match="two columns are called 'name'"):
        tailora.read_records(twice, texts="unused")


def test_a_polars_frame_is_read_as_the_file_that_it_writes(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(
        {
            "name": ["Ada", "Bob", "Cy"],
            "short": polars.Series([0.1, 2.5, None], dtype=polars.Float32),
            "price": [1.1, 0.25, 1.5],
            "born": [datetime.date(2024, 1, 1), None, datetime.date(2024, 5, 2)],
            "whole": [1, None, 3],
            "kind": polars.Series(["x", None, "y"], dtype=polars.Categorical),
            "is_open": [True, None, False],
        }
    )
    frame.write_csv(tmp_path / "rows.csv")
    expected = tailora.read_records(tmp_path / "rows.csv", texts="unused")
    assert tailora.read_records(frame, texts="unused") == expected
    values = {fact.attribute: fact.value for fact in expected[0].facts}
    assert (values["short"], values["born"], values["is_open"]) == ("0.1", "2024-01-01", "yes")
    listed = frame.select("name", polars.concat_list("short").alias("list"))
    assert [fact.value for fact in tailora.read_records(listed, texts="unused")[0].facts] == ["Ada", "0.1"]


def test_data_frames_are_rows() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([*PAIRS, {"name": "Aromi", "text": "Aromi is there."}])
    records = tailora.read_records(frame)
    assert [fact.attribute for fact in records[3].facts] == ["name"]
    assert records == tailora.read_records([row for _, row in frame.iterrows()])
    assert tailora.read_records(frame.iloc[0]) == records[:1]


@pytest.mark.parametrize("source", [3, [], [3], None], ids=str)
def test_what_is_not_data_is_refused(source: Any) -> None:
    with pytest.raises(tailora.DataError, match="give "):
        tailora.read_records(source)


def test_merging_is_that_of_the_command_line(run: tailora.TrainingRun, tmp_path: Path) -> None:
    result = tailora.merge(run.adapter, tmp_path / "merged", check=False)
    assert main(["merge", f"--adapter={run.adapter}", f"--output={tmp_path / 'other'}", "--no-check"]) == 0
    weights = "model.safetensors"
    assert (tmp_path / "merged" / weights).read_bytes() == (tmp_path / "other" / weights).read_bytes()
    assert result["output"] == str(tmp_path / "merged")
    with tailora.load(tmp_path / "merged", precision="fp32") as model:
        texts = model.generate(ROWS, max_new_tokens=8)
    with tailora.load(adapters=run, precision="fp32") as model:
        assert texts == model.generate(ROWS, max_new_tokens=8)


def test_mistakes_name_the_argument(tmp_path: Path) -> None:
    with pytest.raises(tailora.SettingsError, match=r"^rnk: "):
        tailora.train(PAIRS, rnk=4)  # type: ignore[call-arg]
    with pytest.raises(tailora.UserError, match="no adapter and no base model named"):
        tailora.load()
    with pytest.raises(tailora.DataError, match="is not the directory of a finished training run"):
        tailora.TrainingRun.open(tmp_path)


def test_ctrl_c_keeps_what_was_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailora.training import run_report as module

    settings = {**QUICK, "max_steps": 6, "eval_every": 2, "output": tmp_path / "run", "valid": PAIRS}
    original = module.RunObserver.validated

    def validated(self: Any, line: dict[str, Any], best: bool) -> None:
        original(self, line, best)
        if line["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.RunObserver, "validated", validated)
    with pytest.raises(tailora.TrainingInterrupted) as caught:
        tailora.train(PAIRS, **settings)
    run = tailora.TrainingRun.open(caught.value.folder)
    assert run.interrupted
    assert (run.adapter / "adapter_model.safetensors").is_file()
    assert pickle.loads(pickle.dumps(caught.value)).folder == run.folder


def test_importing_is_light() -> None:
    program = (
        "import sys, time; start = time.perf_counter(); import tailora; dir(tailora); "
        "print(sorted({'torch', 'transformers', 'numpy', 'openvino', 'pydantic', 'rich'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_every_name_can_be_imported() -> None:
    for name in tailora.__all__:
        assert getattr(tailora, name).__doc__
    with pytest.raises(AttributeError, match="no_such_name"):
        tailora.no_such_name  # noqa: B018


def test_the_options_are_the_settings() -> None:
    tool = Path(__file__).parents[1] / "tools" / "api_options.py"
    subprocess.run([sys.executable, str(tool), "--check"], check=True)


def test_rows_are_read_with_the_columns_of_training(tmp_path: Path) -> None:
    rows = [{"name": name, "note": f"x{name}", "ref": f"{name} is here."} for name in ("Ada", "Bob", "Cy")]
    columns = {"text": "ref", "facts": ["name"]}
    trained = tailora.train(rows, columns=columns, output=tmp_path / "run", **QUICK)
    with tailora.load(adapters={"shop": trained.adapter}, precision="fp32") as model:
        expected = model.generate({"name": "Ada"}, max_new_tokens=8)
        assert model.generate(rows[0], max_new_tokens=8) == expected
        assert model.generate(rows[0], adapter="shop", max_new_tokens=8) == expected


@pytest.mark.parametrize("command", [tailora.train, tailora.plan, tailora.lint, tailora.compare, tailora.tune])
def test_an_error_about_a_row_in_memory_names_the_row(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"name": "A", "text": "A is."}, {"name": {"first": "B"}, "text": "B is."}]
    more: dict[str, Any] = {"ranges": {"rank": "2|4"}} if command is tailora.tune else {}
    with pytest.raises(tailora.DataError) as caught:
        command(rows, **more)
    assert caught.value.where == "data[1]"
    with pytest.raises(tailora.DataError) as caught:
        tailora.read_records(rows)
    assert caught.value.where == "records[1]"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(tailora.DataError) as caught:
        command(path, **more)
    assert caught.value.where == f"{path}:2"


def test_several_adapters_write_as_their_weighted_sum(run: tailora.TrainingRun, tmp_path: Path) -> None:
    other = tailora.train(PAIRS, output=tmp_path / "other", seed=3, **{**QUICK, "learning_rate": 5e-2})
    weights = {"shop": 0.75, "other": 0.5}
    merged = tailora.merge([run.adapter, other.adapter], tmp_path / "merged", weights=[0.75, 0.5])
    with tailora.load(str(tmp_path / "merged"), precision="fp32") as whole:
        wanted = whole.generate(ROWS, max_new_tokens=12)
    assert merged["parameters"]
    with tailora.load("tiny", adapters={"shop": run.adapter, "other": other.adapter}, precision="fp32") as model:
        mixed = model.generate(ROWS, adapter=weights, max_new_tokens=12)
        assert mixed == wanted
        assert [text.adapter for text in mixed] == ["0.75 shop + 0.5 other"] * 3
        assert "".join(model.stream(ROWS[0], adapter=weights, max_new_tokens=12)).strip() == mixed[0]
        assert model.generate(ROWS, adapter={"shop": 1.0}, max_new_tokens=12) == model.generate(
            ROWS, adapter="shop", max_new_tokens=12
        )
        for bad, message in (
            ({"shop": 1.0, "third": 1.0}, "there is no adapter 'third'"),
            ({"shop": float("inf")}, "the weight of 'shop' must be a number from -100 to 100, not inf"),
            ({"shop": "0.5"}, "the weight of 'shop' must be a number from -100 to 100, not '0.5'"),
            (["shop", "other"], "is of type list"),
            ({}, "names no adapter"),
            ({tailora.BASE: 1.0}, "names the base"),
        ):
            with pytest.raises(tailora.SettingsError, match=message):
                model.generate(ROWS, adapter=bad, max_new_tokens=2)  # type: ignore[arg-type]


def test_adapters_of_different_prompts_are_not_mixed(run: tailora.TrainingRun, tmp_path: Path) -> None:
    other = tailora.train(PAIRS, output=tmp_path / "other", prompt_form="arrow", **QUICK)
    with (
        tailora.load("tiny", adapters={"shop": run.adapter, "other": other.adapter}, precision="fp32") as model,
        pytest.raises(tailora.SettingsError, match="the adapters shop and other were trained on") as caught,
    ):
        model.generate(ROWS, adapter={"shop": 0.5, "other": 0.5})
    assert str(caught.value.where).startswith("records[0], record ")


def test_rows_are_stored_beside_a_run_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert _folder_for_rows("~/runs/x") == tmp_path / "runs" / "data"
    assert _folder_for_rows(None) == Path("runs") / "data"
