"""The verb: texts from records, with adapters beside the weights and merged, named by rows, going on after a kill."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bases import META, save_adapter, save_base
from tailora.adapters import formats
from tailora.adapters.config import LoraConfig
from tailora.commands.generate import GenerateSettings, parse_record, read_records, run
from tailora.commands.merge import MergeSettings
from tailora.commands.merge import run as merge
from tailora.core.errors import AdapterError, DataError, MissingExtraError, SettingsError
from tailora.core.files import write_json
from tailora.core.flags import from_arguments, parser_for
from tailora.inference import text_job
from tailora.inference.setup import prompt_ids, resolve_models
from tailora.lora import inject
from tailora.models.catalog import TINY_FOLDER
from tailora.models.load import load_base


@pytest.fixture
def base(tmp_path: Path) -> str:
    save_base(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path, base: str) -> Path:
    """An adapter with random values in a run directory."""
    return save_adapter(tmp_path / "run" / "adapter", base).parent


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"id": f"r{n}", "facts": {"name": "Blue Spice"[: n + 2], "food": "x" * n}} for n in range(7)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_verb_writes_the_contracts_rows_in_order(adapter: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "outputs.jsonl"
    settings = GenerateSettings(
        adapter=(str(adapter),), input=str(data), output=output, max_new_tokens=6, batch_size=3, precision="fp32"
    )
    result = run(settings)
    rows = rows_of(output)
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(7)]
    assert set(rows[0]) == {
        *("id", "adapter", "text", "token_ids", "logprob", "finish_reason", "prompt_tokens", "completion_tokens")
    }
    assert rows[0]["adapter"] == str(adapter)
    assert result["records"] == 7
    assert result["completion_tokens"] == sum(row["completion_tokens"] for row in rows)
    # As the adapter was trained: `name : Bl | food :` with the arrow after it, no separator token.
    assert rows[2]["prompt_tokens"] == len("name : Blue | food : xx =>")


def test_beside_the_weights_merged_and_written_are_one(adapter: Path, data: Path, tmp_path: Path) -> None:
    def texts(**settings: Any) -> list[dict[str, Any]]:
        result = run(GenerateSettings(input=str(data), max_new_tokens=8, precision="fp32", beams=2, **settings))
        return [{**row, "adapter": None, "logprob": round(row["logprob"], 2)} for row in result["outputs"]]

    beside = texts(adapter=(str(adapter),))
    merge(MergeSettings(adapter=adapter, output=tmp_path / "merged"))
    assert texts(adapter=(str(adapter),), merged=True) == beside
    assert texts(base=str(tmp_path / "merged")) == beside, "the folder tells the prompt form too"
    assert texts(base=str(tmp_path / "base"), prompt_form="arrow") != beside


def test_one_record_is_printed(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"adapter": (str(adapter),), "max_new_tokens": 6, "precision": "fp32"}
    first = run(GenerateSettings(record="name : Blue Spice | Type : pub", **settings))["outputs"]
    second = run(GenerateSettings(record='{"name": "Blue Spice", "Type": "pub"}', **settings))["outputs"]
    assert first == second
    assert first[0]["text"] in capsys.readouterr().out


@pytest.mark.parametrize(("generation", "config"), [(None, [0, 14]), ([0, 14], 0)])
def test_every_end_of_the_base_ends_a_text(tmp_path: Path, generation: Any, config: Any) -> None:
    """The full stop is the second end-of-text token, in either file."""
    shutil.copytree(TINY_FOLDER, tmp_path / "copy")
    for name, ends in (("generation_config.json", generation), ("config.json", config)):
        path = tmp_path / "copy" / name
        values = {**json.loads(path.read_text(encoding="utf-8")), "eos_token_id": ends}
        path.unlink() if ends is None else write_json(path, values)
    settings: dict[str, Any] = {"record": "name : Blue Door | type : pub", "max_new_tokens": 60, "precision": "fp32"}
    made = run(GenerateSettings(base=str(tmp_path / "copy"), **settings))["outputs"][0]
    assert (made["text"].count("."), made["text"][-1], made["finish_reason"]) == (1, ".", "stop")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.float32)
    prompt = prompt_ids({"name": "Blue Door", "type": "pub"}, base=str(tmp_path / "copy"))
    out = model.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False, pad_token_id=0)
    assert out[0, len(prompt) :].tolist() == made["token_ids"]


def test_one_record_may_name_its_adapter() -> None:
    facts = '"facts": {"name": "Mill"}'
    assert parse_record("{" + facts + "}").adapter is None
    assert parse_record("{" + facts + ', "adapter": null}').adapter == ""
    assert parse_record("{" + facts + ', "adapter": "a"}').adapter == "a"
    assert parse_record("{" + facts + ', "adapter": {"a": 0.5, "b": 2}}').adapter == (("a", 0.5), ("b", 2.0))
    assert parse_record('{"name": "Mill", "adapter": "plug"}').adapter is None  # an attribute of the record


@pytest.mark.parametrize("text", ["nonsense", "{", "[3]", "", "a : b | c", '{"facts": {"a": 1}, "adapter": 3}'])
def test_what_is_no_record_is_said(text: str) -> None:
    with pytest.raises(DataError):
        parse_record(text)


def test_an_adapter_of_another_base_is_refused(base: str, data: Path, tmp_path: Path, caplog: Any) -> None:
    foreign = save_adapter(tmp_path / "foreign", base, base_fingerprint="0" * 64)
    settings = {"adapter": (str(foreign),), "input": str(data), "max_new_tokens": 2, "precision": "fp32"}
    with pytest.raises(AdapterError, match=r"trained on other weights than those of .*--force"):
        run(GenerateSettings(**settings))
    assert run(GenerateSettings(**settings, force=True))["records"] == 7
    assert "using it anyway because of --force" in caplog.text


def test_an_adapter_without_a_fingerprint_is_warned_about_once(
    base: str, data: Path, tmp_path: Path, caplog: Any
) -> None:
    unknown = save_adapter(tmp_path / "unknown", base, base_fingerprint=None)
    run(GenerateSettings(adapter=(str(unknown),), input=str(data), max_new_tokens=2, precision="fp32"))
    assert caplog.text.count("only shapes are checked") == 1


def test_an_adapter_that_changes_nothing_is_refused(base: str, tmp_path: Path) -> None:
    loaded = load_base(base)
    inject.attach(loaded.model, LoraConfig(rank=2))
    formats.save(dataclasses.replace(inject.extract(loaded.model), base_name=base), tmp_path / "idle")
    with pytest.raises(AdapterError, match="changes nothing"):
        run(GenerateSettings(adapter=(str(tmp_path / "idle"),), record="a : b"))


def test_a_prompt_over_the_context_names_its_record(base: str) -> None:
    with pytest.raises(
        DataError, match=r"record 1: the prompt has \d+ tokens \(limit for prompt and text together: 96\)"
    ):
        run(GenerateSettings(base=base, record="name : " + "x" * 100, precision="fp32"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": "tiny"}, "nothing to write about"),
        ({"base": "tiny", "input": "a", "record": "b"}, "--input and --record exclude each other"),
        ({"input": "a"}, "no adapter and no base model named"),
        ({"base": "tiny", "input": "a", "merged": True}, "no adapter to merge"),
        ({"base": "tiny", "input": "a", "num_candidates": 2}, "greedy search has one result"),
        ({"base": "tiny", "input": "a", "beams": 2, "temperature": 1.0}, "beams are not sampled"),
        ({"base": "tiny", "input": "a", "top_p": -0.1}, "top_p"),
        ({"base": "tiny", "input": "a", "ray_actors": 2}, "ray_actors: has no effect without --ray; add --ray"),
        ({"base": "tiny", "input": "a", "ray": True, "ray_cpus": 0}, "ray_cpus"),
    ],
)
def test_settings_are_checked_before_anything_is_loaded(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        GenerateSettings(**values)


def test_ray_without_its_packages_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "tailora.inference.ray_texts", raising=False)
    with pytest.raises(MissingExtraError, match=r"--ray needs packages .* \(ray\); pip install 'tailora\[ray\]'"):
        run(GenerateSettings(base="tiny", record="name : x", ray=True))


def test_rows_name_their_adapters(base: str, tmp_path: Path) -> None:
    places = {name: save_adapter(tmp_path / name, base, seed=seed) for seed, name in enumerate(("one", "two"), start=1)}
    path = tmp_path / "mixed.jsonl"
    named = ["two", "one", None, "two"]
    path.write_text(
        "".join(json.dumps({"prompt": "a b =>", "id": str(n), "adapter": a}) + "\n" for n, a in enumerate(named))
    )
    ways = {"max_new_tokens": 8, "precision": "fp32"}
    both = run(GenerateSettings(adapter=tuple(f"{n}={p}" for n, p in places.items()), input=str(path), **ways))
    rows = both["outputs"]
    assert [row["adapter"] for row in rows] == named
    assert rows[0]["text"] == rows[3]["text"]
    assert len({row["text"] for row in rows}) == 3
    assert both["adapter"] == ["one", "two"]


def test_a_row_that_names_no_known_adapter_is_said(base: str, data: Path, tmp_path: Path) -> None:
    places = [f"{name}={save_adapter(tmp_path / name, base)}" for name in ("one", "two")]
    with pytest.raises(DataError, match=r"data.*:1, record r0: does not name one of the 2 adapters"):
        run(GenerateSettings(adapter=tuple(places), input=str(data)))
    path = tmp_path / "named.jsonl"
    path.write_text('{"id": "r0", "facts": {"a": "b"}, "adapter": "three"}\n')
    with pytest.raises(
        DataError, match=r"named.jsonl:1, record r0: the adapter 'three' is not loaded.*known: one, two"
    ):
        run(GenerateSettings(adapter=tuple(places), input=str(path)))
    with pytest.raises(SettingsError, match="two adapters have the name one"):
        GenerateSettings(adapter=(places[0], places[0]), input=str(path))


def test_a_killed_run_goes_on(base: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole.jsonl"
    options = {"base": base, "input": str(data), "max_new_tokens": 6, "precision": "fp32", "batch_size": 1}
    run(GenerateSettings(**options, output=whole))
    output = tmp_path / "part.jsonl"
    kept = text_job.ResumeLog.add

    def killed(journal: Any, number: int, row: Any) -> None:
        if len(journal.rows) == 3:
            journal._file.write(b"[6, {")  # in the middle of a line
            raise KeyboardInterrupt
        kept(journal, number, row)

    with monkeypatch.context() as patched:
        patched.setattr(text_job.ResumeLog, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            run(GenerateSettings(**options, output=output))
    assert not output.exists()
    with pytest.raises(SettingsError, match="was written with other settings or data"):
        run(GenerateSettings(**{**options, "max_new_tokens": 7}, output=output))
    renamed = tmp_path / "renamed.jsonl"
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(row | {"id": f"other {number}"}) + "\n" for number, row in enumerate(rows)]
    renamed.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(SettingsError, match="was written with other settings or data"):
        run(GenerateSettings(**{**options, "input": str(renamed)}, output=output))
    result = run(GenerateSettings(**options, output=output))
    assert result["resumed"] == 3
    assert output.read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.glob("part*")] == ["part.jsonl"]


@pytest.mark.parametrize("changes", [{"dora": True}, {"bias": "all"}])
def test_what_no_slot_expresses_runs_on_torch(base: str, data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = save_adapter(
        tmp_path / "other", base, config=LoraConfig(**{"rank": 4, "targets": ("attention",), **changes})
    )
    ways = {"input": str(data), "max_new_tokens": 4, "precision": "fp32"}
    result = run(GenerateSettings(adapter=(str(folder),), **ways))
    assert result["backend"] == "torch"
    with pytest.raises(AdapterError, match="run it with --backend torch"):
        run(GenerateSettings(adapter=(str(folder),), backend="openvino", **ways))
    second = save_adapter(tmp_path / "second", base)
    with pytest.raises(AdapterError, match="cannot run together with other adapters; merge it with `tailora merge`"):
        run(GenerateSettings(adapter=(f"a={folder}", f"b={second}"), **ways | {"input": named(tmp_path)}))


def named(folder: Path) -> str:
    path = folder / "named.jsonl"
    path.write_text('{"facts": {"a": "b"}, "adapter": "a"}\n')
    return str(path)


@pytest.mark.parametrize("targets", [("attention", "mlp"), ("attention", "wte", "head")])
def test_the_backends_write_the_same(base: str, data: Path, tmp_path: Path, targets: tuple[str, ...]) -> None:
    adapter = save_adapter(tmp_path / "adapter", base, config=LoraConfig(rank=4, targets=targets))

    def texts(**settings: Any) -> list[str]:
        ways = {"max_new_tokens": 8, "precision": "fp32", **settings}
        return [
            row["text"] for row in run(GenerateSettings(adapter=(str(adapter),), input=str(data), **ways))["outputs"]
        ]

    expected = texts(backend="torch")
    assert texts(backend="openvino") == expected
    assert texts(backend="torch", merged=True) == expected
    assert texts(merged=True) == expected
    assert texts(beams=3, backend="openvino") == texts(beams=3, backend="torch")


@pytest.mark.parametrize("source", ["e2e", "dart", "/home/e2e-team/webnlg.json"])
def test_the_paper_s_presets_go_by_their_names(source: str) -> None:
    preset = GenerateSettings(base="tiny", input=source, preset="lora-paper-e2e")
    assert (preset.beams, preset.no_repeat_ngram_size, preset.max_new_tokens) == (10, 4, 64)
    assert (preset.length_penalty, preset.stop) == (0.9, ("\n\n",))
    other = GenerateSettings(base="tiny", input=source, preset="lora-paper", beams=2, stop=(r"\n",))
    assert (other.length_penalty, other.beams, other.stop) == (0.8, 2, ("\n",))


STOPS = {"\n": "\n", r"\n": "\n", ",": ",", " ": " ", " END": " END", ", and": ", and"}


@pytest.mark.parametrize("given", STOPS)
def test_stop_strings_are_kept_as_they_are(given: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    parser = parser_for(GenerateSettings, prog="tailora generate", description="")
    flags = ["--base", "tiny", "--record", "name : x"]
    assert from_arguments(GenerateSettings, parser, [*flags, "--stop", given])[0].stop == (STOPS[given],)
    for value in (given, [given, "END"]):
        config.write_text(f"stop: {json.dumps(value)}\n", encoding="utf-8")
        wanted = (STOPS[given],) if value == given else (STOPS[given], "END")
        assert from_arguments(GenerateSettings, parser, [str(config), *flags])[0].stop == wanted


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(SettingsError, match="stop: an empty string would end every text; leave it out"):
        GenerateSettings(base="tiny", record="name : x", stop=("",))


def test_a_built_in_adapter_is_not_taken_for_the_base(adapter: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.jsonl"
    path.write_text('{"facts": {"a": "b"}, "adapter": null}\n')
    with pytest.raises(DataError, match="record 1: needs the base without the adapter"):
        run(GenerateSettings(adapter=(str(adapter),), input=str(path), merged=True))
    assert run(GenerateSettings(adapter=(str(adapter),), input=str(path)))["outputs"][0]["adapter"] is None


def test_torch_is_not_loaded_where_it_is_not_the_backend(adapter: Path, data: Path, tmp_path: Path) -> None:
    flags = ["generate", "--adapter", str(adapter), "--input", str(data), "--output", str(tmp_path / "o.jsonl")]
    program = f"""
import sys
from tailora.cli import main
assert main({flags!r}) == 0
print(sorted({{"torch", "transformers"}} & sys.modules.keys()))
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip().endswith("[]")
    assert len(rows_of(tmp_path / "o.jsonl")) == 7


DOOR, OAK = {"name": "Blue Door"}, {"name": "The Oak"}
INPUTS = {
    "a.csv": "name,text\nBlue Door,A.\nThe Oak,\nBlue Door,B.\n",
    "bare.csv": "name\nBlue Door\nThe Oak\nBlue Door\n",
    "ids.csv": "id,name\n1,Blue Door\n2,The Oak\n3,Blue Door\n",
    "a.tsv": "name\ttext\nBlue Door\t\nThe Oak\tA.\nBlue Door\t\n",
    "mr.csv": "mr,ref\nname[Blue Door],A.\nname[The Oak],\nname[Blue Door],\n",
    "a.txt": "name : Blue Door||A.\nname : The Oak||\nname : Blue Door\n",
    "a.jsonl": "".join(json.dumps({"facts": facts, "text": facts["name"][4:]}) + "\n" for facts in (DOOR, OAK, DOOR)),
    "bare.jsonl": "".join(json.dumps({"facts": facts, "text": None}) + "\n" for facts in (DOOR, OAK, DOOR)),
    "flat.jsonl": "".join(json.dumps(facts) + "\n" for facts in (DOOR, OAK, DOOR)),
    "a.json": json.dumps([{"facts": facts, "texts": ["A.", "B."]} for facts in (DOOR, OAK, DOOR)], indent=1),
    "prompts.csv": "prompt,completion\nname : Blue Door =>,A.\nname : The Oak =>,\nname : Blue Door =>,B.\n",
    "prompts.jsonl": "".join(json.dumps({"prompt": facts["name"] + " =>"}) + "\n" for facts in (DOOR, OAK, DOOR)),
}


@pytest.mark.parametrize("name", INPUTS)
def test_one_text_for_each_row_or_with_gather_for_each_record(adapter: Path, tmp_path: Path, name: str) -> None:
    path, output = tmp_path / name, tmp_path / "outputs.jsonl"
    path.write_text(INPUTS[name], encoding="utf-8")

    def told(**more: Any) -> list[tuple[str, str]]:
        ways = {"adapter": (str(adapter),), "max_new_tokens": 4, "precision": "fp32", **more}
        count = run(GenerateSettings(input=str(path), output=output, **ways))["records"]
        rows = rows_of(output)
        assert len(rows) == count
        return [(row["id"], row["text"]) for row in rows]

    rows = told()
    assert [name for name, _ in rows] == ["1", "2", "3"]
    assert rows[0][1] == rows[2][1] != rows[1][1]
    assert told(limit=2) == rows[:2]
    assert told(gather=True) == rows[:2], "the third row is about the first's record"
    assert told(gather=True, limit=1) == rows[:1]


def test_entries_of_a_corpus_are_rows(adapter: Path, tmp_path: Path) -> None:
    entry = '<entry category="City" eid="Id{}"><modifiedtripleset><mtriple>A | b | C</mtriple></modifiedtripleset>'
    lexes = '<lex comment="" lang="ga">x</lex><lex comment="good" lang="">y</lex></entry>'
    path = tmp_path / "a.xml"
    path.write_text("<benchmark>" + "".join(entry.format(n) + lexes for n in (1, 2)) + "</benchmark>", encoding="utf-8")
    for ways in ({}, {"gather": True}, {"language": "ga"}):
        made = run(GenerateSettings(adapter=(str(adapter),), input=str(path), max_new_tokens=2, **ways))
        assert [row["id"] for row in made["outputs"]] == ["City/Id1", "City/Id2"]


def test_columns_that_the_adapter_was_not_trained_on_are_reported(
    base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A table that was trained on with --columns is often written about without; nothing else would tell."""
    adapter = save_adapter(tmp_path / "run" / "adapter", base, meta={**META, "attributes": ["Loại", "Tên"]})
    table = tmp_path / "shop.csv"
    table.write_text("Mã,Tên,Loại,Ghi chú\nSP1,Cốc,bếp,mới\nSP2,Đèn,,cũ\n", encoding="utf-8")
    run(GenerateSettings(adapter=(str(adapter),), input=str(table), max_new_tokens=1))
    (reported,) = (line for line in caplog.messages if "was not trained on" in line)
    assert "shop.csv" in reported
    assert "on 'Ghi chú';" in reported, "'Mã' is the id"
    caplog.clear()
    named = {"facts": ["Tên", "Loại"]}
    run(GenerateSettings(adapter=(str(adapter),), input=str(table), max_new_tokens=1, columns=named))
    assert not any("was not trained on" in line for line in caplog.messages)


TRAINED_COLUMNS = {"text": "ref", "facts": ["Tên", "Loại"], "id": "key"}
SHOP = "key,Tên,Loại,Ghi chú\nSP1,Cốc,bếp,mới\nSP2,Đèn,,cũ\n"


def trained_on(base: str, place: Path, **reading: Any) -> Path:
    """An adapter whose training read its data in some way."""
    kept = {"format": None, "columns": TRAINED_COLUMNS, "language": None, **reading}
    return save_adapter(place / "adapter", base, meta={**META, "attributes": ["Loại", "Tên"], "reading": kept})


def test_a_table_is_read_with_the_columns_of_training(
    base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = trained_on(base, tmp_path / "run")
    table = tmp_path / "shop.csv"
    table.write_text(SHOP, encoding="utf-8")
    settings = GenerateSettings(adapter=(str(adapter),), input=str(table), max_new_tokens=1)
    records = read_records(settings, resolve_models(base, settings.adapters()).reading)
    assert [[fact.attribute for fact in record.facts] for record in records] == [["Tên", "Loại"], ["Tên"]]
    assert [row["id"] for row in run(settings)["outputs"]] == ["SP1", "SP2"]
    assert not any("was not trained on" in line for line in caplog.messages)
    assert (
        "shop.csv: read with the adapter's training columns (text=ref, facts=Tên+Loại, id=key)"
        in capsys.readouterr().err
    )
    chosen = settings.model_copy(update={"columns": {"facts": ("Ghi chú",)}})
    assert read_records(chosen, resolve_models(base, settings.adapters()).reading)[0].facts[0].value == "mới"


@pytest.mark.parametrize(
    ("name", "content", "lacking"),
    [
        ("a.csv", "key,Tên,Ghi chú\nSP1,Cốc,mới\n", "the column 'Loại', which"),
        ("a.jsonl", '{"ten": "Cốc"}', "the columns 'Tên', 'Loại', which"),
        ("a.csv", 'mr,ref\n"name[X]",A.\n', "the columns 'Tên', 'Loại', which"),
    ],
)
def test_a_table_that_lacks_the_columns_of_training_is_refused(
    base: str, tmp_path: Path, name: str, content: str, lacking: str
) -> None:
    adapter = trained_on(base, tmp_path / "run")
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(
        DataError, match=f"the adapter was trained on {lacking} the file does not have; add .* --columns;"
    ):
        run(GenerateSettings(adapter=(str(adapter),), input=str(path), max_new_tokens=1))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"facts": {"Tên": "Cốc"}}'),
        ("a.txt", "Tên : Cốc"),
        ("a.csv", "key,Tên,Loại,ref\nSP1,Cốc,,A text.\n"),
        ("b.jsonl", '{"Tên": "Cốc", "Ghi chú": "mới"}'),
    ],
)
def test_files_that_describe_themselves_need_no_columns(base: str, tmp_path: Path, name: str, content: str) -> None:
    adapter = trained_on(base, tmp_path / "run")
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    settings = GenerateSettings(adapter=(str(adapter),), input=str(path))
    (record,) = read_records(settings, resolve_models(base, settings.adapters()).reading)
    assert [(fact.attribute, fact.value) for fact in record.facts] == [("Tên", "Cốc")]


def test_the_format_and_values_of_training(base: str, tmp_path: Path) -> None:
    """An adapter whose metadata does not describe its reading was trained on values as the first edition read them."""
    table = tmp_path / "a.csv"
    table.write_text("id,Tên,open\n1,Cốc,True\n", encoding="utf-8")
    values = tmp_path / "a.jsonl"
    values.write_text('{"facts": {"Tên": 1.50}}', encoding="utf-8")
    old = save_adapter(tmp_path / "old" / "adapter", base, meta={**META, "attributes": ["Tên", "id", "open"]})
    new = trained_on(base, tmp_path / "new", columns={})
    for adapter, expected in ((old, [["1", "Cốc", "True"], ["1.5"]]), (new, [["Cốc", "yes"], ["1.50"]])):
        found = []
        for path in (table, values):
            settings = GenerateSettings(adapter=(str(adapter),), input=str(path))
            records = read_records(settings, resolve_models(base, settings.adapters()).reading)
            found.append([fact.value for fact in records[0].facts])
        assert found == expected
    piped = tmp_path / "a.csv"
    piped.write_text("name : A||\n", encoding="utf-8")
    named = trained_on(base, tmp_path / "named", columns={}, format="piped")
    settings = GenerateSettings(adapter=(str(named),), input=str(piped))
    assert read_records(settings, resolve_models(base, settings.adapters()).reading)[0].facts[0].value == "A"


def test_earlier_texts_that_are_replaced_are_reported(
    base: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"base": base, "input": str(data), "precision": "fp32", "output": tmp_path / "out.jsonl"}
    first = run(GenerateSettings(**options, max_new_tokens=2))
    assert first["replaced"] is None
    assert "replaced" not in capsys.readouterr().err
    again = run(GenerateSettings(**options, max_new_tokens=3, limit=2))
    assert again["replaced"] == first["records"]
    assert f"replaced {first['records']} earlier texts" in capsys.readouterr().err
    assert run(GenerateSettings(**options, max_new_tokens=3))["replaced"] == 2


def test_the_input_is_not_written_over(base: str, data: Path) -> None:
    before = data.read_bytes()
    with pytest.raises(SettingsError, match="is the input itself"):
        run(GenerateSettings(base=base, input=str(data), output=data))
    assert data.read_bytes() == before


@pytest.mark.parametrize("content", ["name,text\nA,A is.\n", '{"facts": {"name": "A"}, "text": "A is."}\n', "A is.\n"])
def test_data_is_not_replaced_by_texts(tmp_path: Path, content: str) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "other"
    source.write_text('{"facts": {"name": "A"}}\n', encoding="utf-8")
    output.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match="exists and is not a file of texts that `tailora generate` wrote"):
        run(GenerateSettings(base="tiny", input=str(source), output=output))
    assert output.read_text(encoding="utf-8") == content


def test_rows_mix_adapters(base: str, tmp_path: Path) -> None:
    """A row's mixture is the weighted sum of its adapters, in any form, in one batch with other rows."""
    places = [save_adapter(tmp_path / name, base, seed=seed) for seed, name in enumerate(("one", "two"), start=1)]
    adapters = tuple(f"{place.name}={place}" for place in places)
    merge(MergeSettings(adapter=tuple(places), weights=(0.7, -0.5), base=base, output=tmp_path / "merged", check=False))
    mixtures: list[Any] = [
        {"one": 0.7, "two": -0.5},
        [{"name": "one", "weight": 0.7}, {"name": "two", "weight": -0.5}],
        [["one", 0.7], ["two", -0.5]],
    ]
    path = tmp_path / "rows.jsonl"
    named = [*mixtures, "one", None, {"one": 1}]
    path.write_text(
        "".join(json.dumps({"prompt": "a b =>", "id": str(n), "adapter": a}) + "\n" for n, a in enumerate(named))
    )
    ways: dict[str, Any] = {"input": str(path), "max_new_tokens": 12, "precision": "fp32"}
    result = run(GenerateSettings(base=base, adapter=adapters, output=tmp_path / "outputs.jsonl", **ways))
    rows = rows_of(tmp_path / "outputs.jsonl")
    assert result["records"] == len(named)
    assert [row["adapter"] for row in rows] == [*[mixtures[0]] * 3, "one", None, {"one": 1.0}]
    path.write_text('{"prompt": "a b =>"}\n', encoding="utf-8")
    merged = run(GenerateSettings(base=str(tmp_path / "merged"), **ways))["outputs"][0]["text"]
    texts = [row["text"] for row in rows]
    assert texts[:3] == [merged] * 3
    assert merged not in texts[3:]
    assert texts[5] == texts[3]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({}, r"rows.jsonl:1: adapter: names no adapter; write \{"),
        ({"one": "much"}, "rows.jsonl:1: adapter: the weight of 'one' must be a number from -100 to 100"),
        ([["one", 1], ["one", 2]], "rows.jsonl:1: adapter: the adapter 'one' is named twice; add its weights"),
        (
            {"one": 1, "three": 1},
            r"rows.jsonl:1, record r0: the adapter 'three' is not loaded; add --adapter three=PATH",
        ),
        (
            {"one": 1, "other": 1},
            "rows.jsonl:1, record r0: the adapters one and other were trained on different prompts",
        ),
    ],
)
def test_rows_that_cannot_be_mixed_are_refused(base: str, tmp_path: Path, mixture: Any, message: str) -> None:
    save_adapter(tmp_path / "one", base)
    save_adapter(tmp_path / "other", base, seed=2, meta={**META, "linearization": "plain"})
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"id": "r0", "facts": {"a": "b", "c": "d"}, "adapter": mixture}) + "\n", encoding="utf-8"
    )
    adapters = (f"one={tmp_path / 'one'}", f"other={tmp_path / 'other'}")
    with pytest.raises((DataError, SettingsError), match=message):
        run(GenerateSettings(base=base, adapter=adapters, input=str(path), max_new_tokens=2, precision="fp32"))


def test_more_adapters_than_a_text_can_use_are_refused_before_anything_is_written(base: str, tmp_path: Path) -> None:
    places = [save_adapter(tmp_path / f"a{number}", base, seed=number) for number in range(1, 6)]
    path, output = tmp_path / "rows.jsonl", tmp_path / "outputs.jsonl"
    rows = ({"prompt": "a b =>", "adapter": "a1"}, {"prompt": "c =>", "adapter": {place.name: 0.2 for place in places}})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    adapters = tuple(f"{place.name}={place}" for place in places)
    ways: dict[str, Any] = {"input": str(path), "output": output, "max_new_tokens": 2, "precision": "fp32"}
    with pytest.raises(DataError, match=r"rows.jsonl:2, record 2: names 5 adapters \(limit of the engine .*: 4\)"):
        run(GenerateSettings(base=base, adapter=adapters, **ways))
    assert [place.name for place in tmp_path.iterdir() if place.name.startswith("outputs")] == []


def test_a_weight_of_an_adapter_in_the_network_is_refused_with_its_row(adapter: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a b =>", "adapter": {"adapter": 0.5}}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl:1, record 1: the adapter is part of the network"):
        run(GenerateSettings(adapter=(f"adapter={adapter}",), merged=True, input=str(path), precision="fp32"))
