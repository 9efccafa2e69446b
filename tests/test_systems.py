"""Several systems in one report: names, scores, tests of pairs, tables for papers, and the page in a real browser."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from bases import save_adapter, save_base
from tailora.commands.evaluate import EvaluateSettings, run
from tailora.core.errors import DataError, SettingsError
from tailora.data.values import Fact, Record
from tailora.evaluation.scoring import Scoring
from tailora.evaluation.systems import System, files_of, reading_of, systems_of
from tailora.evaluation.systems_comparison import compare_systems, too_few_draws
from tailora.evaluation.systems_report import SystemsReport
from tailora.metrics.bleu import bleu
from tailora.metrics.diversity import distinct
from tailora.metrics.statistics import Statistics, compare, holm, mean
from tailora.reports.latex import escaped
from tailora.reports.systems import letter
from tailora.training.methods import load_delta
from tailora.training.run import run as train
from tailora.training.settings import TrainSettings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KINDS = [("Mill", "pub"), ("Spice", "coffee shop"), ("Giraffe", "restaurant"), ("Aromi", "pub")]
PLACES = [(f"{name} {number}", kind) for number in range(6) for name, kind in KINDS]
TEXTS = [f"{name} is a {kind} ." for name, kind in PLACES]
WORSE = [f"{name} is a hotel ." for name, _ in PLACES]
WORST = ["It is <b>good</b> & nice ." for _ in PLACES]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "test.jsonl"
    rows = [
        {
            "id": f"r{n}",
            "facts": {"name": name, "eatType": kind},
            "texts": [f"{name} is a {kind} .", f"A {kind} : {name} ."],
        }
        for n, (name, kind) in enumerate(PLACES)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three systems: a text file, JSON lines, and the output folder of an evaluation."""
    (tmp_path / "good.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    rows = [json.dumps({"id": f"r{n}", "text": text}) for n, text in enumerate(WORSE)]
    (tmp_path / "worse.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "worst").mkdir()
    rows = [json.dumps({"id": f"r{n}", "text": text}) for n, text in enumerate(WORST)]
    (tmp_path / "worst" / "outputs.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return [str(tmp_path / name) for name in ("good.txt", "worse.jsonl", "worst")]


def evaluate(tmp_path: Path, data: Path, systems: list[str], **changes: Any) -> dict[str, Any]:
    values = {"input": str(data), "output": tmp_path / "out", "metrics": ("bleu", "distinct_1", "slots"), "draws": 200}
    return run(EvaluateSettings(systems=tuple(systems), **{**values, **changes}))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_three_systems_in_one_report(tmp_path: Path, data: Path, files: list[str]) -> None:
    result = evaluate(tmp_path, data, files)
    out = tmp_path / "out"
    assert list(result["systems"]) == ["good", "worse", "worst"]
    alone = run(
        EvaluateSettings(input=str(data), texts=Path(files[1]), output=tmp_path / "one", metrics=("bleu",), draws=200)
    )
    assert result["systems"]["worse"]["all"]["bleu"] == alone["all"]["bleu"]
    saved = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert saved == {name: result[name] for name in saved}
    pairs = {(d["metric"], d["first"], d["second"]): d for d in result["differences"]}
    assert len(pairs) == 9
    assert (result["test"], result["draws"], result["seed"]) == ("bootstrap", 200, 12345)
    bleu = pairs["bleu", "good", "worst"]
    assert bleu["difference"] > 0
    assert bleu["p"] <= bleu["p_holm"] < 0.05
    scores = rows_of(out / "scores.csv")
    assert len(scores) == 9
    assert float(scores[0]["value"]) == result["systems"]["good"]["all"]["bleu"]["value"]
    assert len(rows_of(out / "differences.csv")) == 9
    texts = rows_of(out / "texts.csv")
    assert [row["good"] for row in texts] == TEXTS
    assert texts[0]["worse: errors"] == "missing eatType: pub"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<td>B. worse</td><td>24</td><td>0</td><td>0</td><td>0</td><td>0.0%</td>" in page
    assert "It is &lt;b&gt;good&lt;/b&gt; &amp; nice" in page
    assert page.count("<article") == len(PLACES)
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page), "the page loads nothing"


def test_a_table_for_a_paper(tmp_path: Path, data: Path, files: list[str]) -> None:
    evaluate(tmp_path, data, [f"50%_good={files[0]}", *files[1:]])
    table = (tmp_path / "out" / "scores.tex").read_text(encoding="utf-8")
    assert r"A 50\%\_good & \textbf{100.0}$^{\mathrm{BC}}$" in table
    assert r"slot errors~$\downarrow$ \\" in table
    rows = [line for line in table.splitlines() if "&" in line]
    assert {line.count("&") for line in rows} == {3}
    assert table.count(r"\begin{tabular}") == table.count(r"\end{tabular}") == 1
    assert escaped(r"a\b{c}^~<#$") == r"a\textbackslash{}b\{c\}\textasciicircum{}\textasciitilde{}\textless{}\#\$"


def test_systems_that_are_equal_do_not_differ(tmp_path: Path, data: Path, files: list[str]) -> None:
    for test in ("bootstrap", "randomisation"):
        result = evaluate(tmp_path, data, [f"one={files[0]}", f"two={files[0]}"], test=test)
        assert {d["p_holm"] for d in result["differences"]} == {1}
        assert result["test"] == test


def test_one_system_is_scored_as_with_its_flag(tmp_path: Path, data: Path, files: list[str]) -> None:
    result = evaluate(tmp_path, data, files[:1])
    assert result["all"]["bleu"]["value"] == 1
    save_base(tmp_path / "base")
    result = evaluate(tmp_path, data, [str(tmp_path / "base")], max_new_tokens=3)
    assert (tmp_path / "out" / "outputs.jsonl").is_file()
    with pytest.raises(SettingsError, match="has no effect on texts that are already written"):
        evaluate(tmp_path, data, files[:1], beams=2)


def test_models_write_their_texts(tmp_path: Path, data: Path, files: list[str]) -> None:
    save_base(tmp_path / "base")
    save_adapter(tmp_path / "run" / "adapter", str(tmp_path / "base"))
    (tmp_path / "good.txt").write_text("\n".join(TEXTS[:4]) + "\n", encoding="utf-8")
    systems = [files[0], f"a b={tmp_path / 'run'}", str(tmp_path / "base")]
    result = evaluate(tmp_path, data, systems, max_new_tokens=3, limit=4)
    assert list(result["systems"]) == ["good", "a b", "base"]
    written = tmp_path / "out" / "a-b.outputs.jsonl"
    assert len(written.read_text(encoding="utf-8").splitlines()) == 4
    alone = evaluate(
        tmp_path, data, [], adapter=(str(tmp_path / "run"),), max_new_tokens=3, limit=4, output=tmp_path / "one"
    )
    assert result["systems"]["a b"]["all"] == alone["all"]


def test_rows_with_texts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "grouped.csv"
    path.write_text("name,text\nMill,The Mill .\nOak,The Oak .\nMill,A Mill .\n", encoding="utf-8")
    (tmp_path / "rows.txt").write_text("The Mill .\nThe Oak .\nMill !\n", encoding="utf-8")
    (tmp_path / "records.txt").write_text("The Mill .\nThe Oak .\n", encoding="utf-8")
    result = evaluate(tmp_path, path, [str(tmp_path / "rows.txt"), str(tmp_path / "records.txt")], metrics=("bleu",))
    assert result["records"] == 3
    assert result["systems"]["records"]["all"]["bleu"]["value"] == 1


def test_an_evaluation_of_several_systems_is_all_of_them(tmp_path: Path, data: Path, files: list[str]) -> None:
    first = evaluate(tmp_path, data, [*files[:2], f"1st={files[2]}"])
    again = evaluate(tmp_path, data, [str(tmp_path / "out"), files[0]], output=tmp_path / "again", draws=200)
    names = {"good": str(tmp_path / "out" / "good.outputs.jsonl"), "worse": "worse", "1st": "1st"}
    assert list(again["systems"]) == [*names.values(), str(tmp_path / "good.txt")]
    assert [again["systems"][name] for name in names.values()] == list(first["systems"].values())
    named = systems_of([f"old={tmp_path / 'out'}"])
    assert [system.name for system in named] == ["old/good", "old/worse", "old/1st"]
    with pytest.raises(SettingsError, match="--card cannot be combined with 3 systems"):
        evaluate(tmp_path, data, [str(tmp_path / "out")], card="e2e")


def test_a_run_that_changed_weights_of_its_base_writes_texts(tmp_path: Path, data: Path, files: list[str]) -> None:
    save_base(tmp_path / "base")
    values = {
        "data": str(data),
        "base": str(tmp_path / "base"),
        "max_steps": 3,
        "precision": "fp32",
        "valid": str(data),
    }
    places = []
    for method in ("bitfit", "top2"):
        place = tmp_path / "runs" / method
        train(TrainSettings.from_values({**values, "method": method, "learning_rate": 0.1, "output": str(place)}))
        places.append(str(place))
    writing: dict[str, Any] = {"max_new_tokens": 4, "precision": "fp32", "backend": "torch"}
    result = evaluate(tmp_path, data, [*places, f"base={tmp_path / 'base'}", files[0]], metrics=("bleu",), **writing)
    assert list(result["systems"]) == ["bitfit", "top2", "base", "good"]
    out = tmp_path / "out"
    assert not (out / "models").exists()
    texts = {name: rows_of_lines(out / f"{name}.outputs.jsonl") for name in ("bitfit", "base")}
    assert texts["bitfit"] != texts["base"]
    evaluate(tmp_path, data, places[:1], metrics=("bleu",), output=tmp_path / "one", **writing)
    assert rows_of_lines(tmp_path / "one" / "outputs.jsonl") == texts["bitfit"]
    assert load_delta(Path(places[0]))[1]["reading"] == {"format": None, "columns": {}, "language": None}


def rows_of_lines(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_names_of_systems(tmp_path: Path) -> None:
    for folder in ("a", "b", "run/adapter", "full/model", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a/x.txt", "b/x.txt", "a/texts.jsonl.gz", "b/outputs.jsonl", "lora.safetensors"):
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / "run" / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    for file in ("config.json", "tailora.json"):
        (tmp_path / "full" / "model" / file).write_text("{}", encoding="utf-8")
    places = ["a/x.txt", "b/x.txt", "a/texts.jsonl.gz", "b", "run", "run/adapter", "full", "lora.safetensors"]
    found = systems_of([str(tmp_path / place) for place in places])
    assert [system.name for system in found] == [
        str(tmp_path / "a" / "x.txt"),
        str(tmp_path / "b" / "x.txt"),
        "a",
        "b",
        str(tmp_path / "run"),
        str(tmp_path / "run" / "adapter"),
        "full",
        "lora",
    ]
    assert [system.kind for system in found] == ["texts"] * 4 + ["adapter", "adapter", "base", "adapter"]
    assert [*files_of([system.name for system in found]).values()][4:] == [
        *(f"{str(tmp_path / place).strip('/').replace('/', '-')}.outputs.jsonl" for place in ("run", "run/adapter")),
        "full.outputs.jsonl",
        "lora.outputs.jsonl",
    ]
    assert reading_of(found, None) is None
    with pytest.raises(SettingsError, match="two systems have the name x"):
        systems_of([f"x={tmp_path}/a/x.txt", f"x={tmp_path}/b/x.txt"])
    with pytest.raises(DataError, match="is a folder without texts or a model"):
        systems_of([str(tmp_path / "empty")])
    (tmp_path / "empty" / "delta.safetensors").write_text("", encoding="utf-8")
    (tmp_path / "run" / "adapter" / "adapter_model.safetensors").write_text("", encoding="utf-8")
    others = ["empty", "empty/delta.safetensors", "run/adapter/adapter_model.safetensors"]
    found = [systems_of([str(tmp_path / place)])[0] for place in others]
    assert [(system.name, system.kind) for system in found] == [
        ("empty", "delta"),
        ("empty", "delta"),
        ("run", "adapter"),
    ]
    assert systems_of([str(tmp_path / "full" / "model")])[0].kind == "base"
    assert systems_of(["tiny"]) == [System("tiny", "base", Path("tiny"))]
    with pytest.raises(DataError, match="there is no such file"):
        systems_of([str(tmp_path / "nowhere.txt")])
    assert [letter(place) for place in (0, 25, 26)] == ["A", "Z", "A1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": Path("good.txt")}, "--texts cannot be combined with 3 systems"),
        ({"adapter": ("run",)}, "--adapter cannot be combined"),
        ({"against": Path("good.txt")}, "--against cannot be combined"),
        ({"card": "e2e"}, "--card cannot be combined"),
        ({"beams": 3}, "beams has no effect on texts that are already written"),
    ],
)
def test_settings_that_do_not_fit(changes: Any, message: str, tmp_path: Path, data: Path, files: list[str]) -> None:
    with pytest.raises(SettingsError, match=message):
        evaluate(tmp_path, data, files, **changes)


def test_holm_equals_the_closed_test() -> None:
    """Holm's p-value is the largest Bonferroni p-value over all families that contain the test."""
    for values in itertools.product([0.001, 0.012, 0.03, 0.2, 0.9], repeat=3):
        for place, corrected in enumerate(holm(values)):
            families = [
                family for size in (1, 2, 3) for family in itertools.combinations(range(3), size) if place in family
            ]
            closed = max(min(1.0, len(own) * min(values[n] for n in own)) for own in families)
            assert corrected == pytest.approx(closed)
    assert holm([]) == []


def test_randomisation_equals_every_swap() -> None:
    ours, theirs = np.array([0.9, 0.8, 0.7, 0.6, 0.9, 1.0]), np.array([0.5, 0.7, 0.6, 0.65, 0.4, 0.3])
    first, second = (Statistics("M", "s", np.stack([own, np.ones(6)], 1), mean) for own in (ours, theirs))
    signs = np.array(list(itertools.product([1, -1], repeat=6)))
    exact = (np.abs((signs * (ours - theirs)).mean(1)) >= abs((ours - theirs).mean()) - 1e-12).mean()
    assert compare(first, second, draws=20000, test="randomisation").p == pytest.approx(exact, abs=0.005)


def test_randomisation_of_diversity_equals_every_swap() -> None:
    ours, theirs = ["a b c d", "e f g", "h i", "a b x"], ["a a a a", "a b a", "a a", "a b b"]

    def share(texts: Any) -> float:
        tokens = " ".join(texts).split()
        return len(set(tokens)) / len(tokens)

    pairs = list(zip(ours, theirs, strict=True))
    differences = [
        share([pair[pick] for pair, pick in zip(pairs, picks, strict=True)])
        - share([pair[1 - pick] for pair, pick in zip(pairs, picks, strict=True)])
        for picks in itertools.product([0, 1], repeat=4)
    ]
    exact = np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12)
    assert compare(distinct(ours, 1), distinct(theirs, 1), draws=4000).p == pytest.approx(exact, abs=0.02)


def test_randomisation_equals_sacrebleu() -> None:
    random = np.random.default_rng(8)
    words = ["the", "pub", "cafe", "serves", "cheap", "fast", "food", "near", "a", "river", "mill"]
    references = [" ".join(random.choice(words, 9)) for _ in range(60)]

    def system(changed: float) -> list[str]:
        return [" ".join(w if random.random() > changed else "oak" for w in text.split()) for text in references]

    systems = {"one": system(0.1), "two": system(0.12)}
    metric = BLEU(lowercase=True, references=[references])
    test = PairedTest(list(systems.items()), {"BLEU": metric}, references=None, test_type="ar", n_samples=4000)
    theirs = test()[1]["BLEU"][1].p_value
    first, second = (bleu(texts, [[text] for text in references], tokenizer="13a") for texts in systems.values())
    ours = compare(first, second, draws=4000, test="randomisation").p
    assert 0.05 < ours < 0.95
    assert ours == pytest.approx(theirs, abs=0.04)


def test_a_true_null_is_rarely_rejected() -> None:
    """Texts drawn from one source: at most some per cent of the tests find a difference."""
    random = np.random.default_rng(0)
    for test in ("bootstrap", "randomisation"):
        found = 0
        for _ in range(200):
            own = [Statistics("M", "s", np.stack([random.random(40), np.ones(40)], 1), mean) for _ in range(2)]
            found += compare(*own, draws=199, test=test).p <= 0.05
        assert found <= 20, test


def test_too_few_draws_are_reported() -> None:
    record = Record("1", (Fact(None, "name", "Mill"),), ("The Mill .",))
    texts = {f"system {n}": ["The Mill ."] for n in range(8)}
    scoring = Scoring([record], ["bleu"], draws=100)
    comparison = compare_systems(scoring, [record], texts, {"all": [0]})
    assert too_few_draws(comparison) == (
        "With 28 pairs and 100 draws no difference can be significant after correction; use --draws 1120."
    )
    assert "use --draws 1120" in SystemsReport(comparison).note


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_filters_in_a_browser(browser: Any, width: int, tmp_path: Path, data: Path, files: list[str]) -> None:
    evaluate(tmp_path, data, files)
    page = browser.new_page(viewport={"width": width, "height": 800})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "out" / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    count = page.locator(".filters output")
    assert count.inner_text() == "24 of 24"
    assert page.locator("input[value=added]").count() == 0, "no text adds a fact"
    page.check("input[value=missing]")
    assert count.inner_text() == "24 of 24"
    page.select_option("select[name=system]", label="good")
    assert count.inner_text() == "0 of 24"
    page.check("input[value=none]")
    page.fill("input[name=query]", "giraffe")
    assert count.inner_text() == "6 of 24"
    assert page.locator("article:visible").count() == 6
    boxes = [box.bounding_box() for box in page.locator("article:visible").first.locator(".version").all()]
    assert len({round(box["y"]) for box in boxes}) == (1 if width > 1000 else 3)
    assert complaints == []
    page.close()


@pytest.mark.slow
def test_filters_of_one_system_in_a_browser(browser: Any, tmp_path: Path, data: Path, files: list[str]) -> None:
    evaluate(tmp_path, data, files[1:2])
    page = browser.new_page()
    page.goto((tmp_path / "out" / "report.html").as_uri())
    assert page.locator("input[name=kind]").count() == 0, "all texts leave something out"
    page.fill("input[name=query]", "spice")
    assert page.locator("article:visible").count() == 6
    page.close()


def test_results_of_another_evaluation_do_not_stay(tmp_path: Path, data: Path, files: list[str]) -> None:
    evaluate(tmp_path, data, files)
    evaluate(tmp_path, data, [], texts=Path(files[0]))
    texts = {
        "good.outputs.jsonl",
        "worse.outputs.jsonl",
        "worst.outputs.jsonl",
    }  # models may have written them for hours
    alone = {path.name for path in (tmp_path / "out").iterdir()} - texts
    evaluate(tmp_path / "fresh", data, [], texts=Path(files[0]))
    assert alone == {path.name for path in (tmp_path / "fresh" / "out").iterdir()}
    evaluate(tmp_path, data, files)
    assert "scores.csv" in {path.name for path in (tmp_path / "out").iterdir()}
