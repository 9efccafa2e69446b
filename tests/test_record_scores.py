"""PARENT, distinct-n, MSTTR and copied values: scores of the authors' scripts, on texts of our own and on real ones."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from official_scripts import diversity_of, parent_of, table_text_eval
from tailora.core.errors import DataError
from tailora.data import records as record_files
from tailora.data.values import Fact, Record
from tailora.metrics.copied import copied
from tailora.metrics.diversity import distinct, msttr
from tailora.metrics.parent import parent, parent_c
from tailora.metrics.statistics import compare, interval
from tailora.metrics.suite import METRICS, NEED_FACTS, measure

SETS = json.loads((Path(__file__).parent / "data" / "record_scores.json").read_text(encoding="utf-8"))["sets"]
CASES = [(name, system, how) for name, own in SETS.items() for system in own["systems"] for how in ("13a", "none")]
OURS = ("parent", "parent_c", "distinct_1", "distinct_2", "distinct_3", "msttr")


def records_of(rows: Any) -> list[Record]:
    return [Record(row["id"], tuple(Fact(*fact) for fact in row["facts"]), tuple(row["references"])) for row in rows]


@pytest.mark.parametrize(("name", "system", "tokenizer"), CASES)
def test_every_score_equals_its_authors_script(name: str, system: str, tokenizer: str) -> None:
    own = SETS[name]
    records, training = records_of(own["records"]), records_of(own["training"])
    texts, wanted = own["systems"][system]["texts"], own["systems"][system]["scores"][tokenizer]
    found = measure(records, texts, OURS, tokenizer=tokenizer, training=training).statistics
    for metric, value in wanted.items():
        if value is not None:  # GEM's MSTTR is not defined for fewer than 100 tokens
            assert found[metric].value == pytest.approx(value, abs=2e-6), metric


def test_the_paper_s_example() -> None:
    """The example and the scores in the test of the authors' script."""
    table = {
        "birth name": "michael dahlquist",
        "born": "december 22 , 1965",
        "birth place": "seattle , washington",
        "died": "july 14 , 2005",
        "death place": "skokie , illinois",
        "genres": "male",
        "occupation(s)": "drummer",
        "instruments": "drums",
    }
    life = "michael dahlquist ( december 22 , 1965 -- july 14 , 2005 ) was a drummer"
    record = Record(
        "1", tuple(Fact(None, *pair) for pair in table.items()), (f"{life} in the seattle band silkworm .",)
    )
    texts = [f"{life} in the california band grateful dead .", f"{life} .", f"{life} from seattle , washington ."]
    found = [parent([record], [text], tokenizer="none").value for text in texts]
    assert found == pytest.approx([0.772, 0.836, 0.848], abs=5e-4)


SYSTEMS = ["tgen-std.run0", "tgen-plus.run1", "sclstm.run0"]


@pytest.fixture(scope="module")
def e2e() -> tuple[list[Record], list[Record]]:
    folder = Path(__file__).parents[2] / "shared" / "data" / "e2e"
    if not folder.is_dir():
        pytest.skip("the folder of real data, `shared` beside the checkout, is not here")
    return record_files.read(folder, split="test"), record_files.read(folder, split="train")


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["13a", "none"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_real_outputs_on_e2e(
    e2e: Any, system: str, tokenizer: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, training = e2e
    path = shared / "reference" / "e2e_metrics" / f"{system}.txt.gz"
    texts = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    check_against_scripts(records, texts, training, tokenizer, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["13a", "none"])
def test_texts_of_people_on_webnlg(tokenizer: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last text of each record against the others; records with one text are left out."""
    every = record_files.read(shared / "data" / "webnlg_2017", split="test")
    several = [record for record in every if len(record.references) > 1]
    records = [Record(own.id, own.facts, own.references[:-1]) for own in several]
    training = record_files.read(shared / "data" / "webnlg_2017", split="train")
    check_against_scripts(records, [own.references[-1] for own in several], training, tokenizer, monkeypatch)


def check_against_scripts(
    records: list[Record], texts: list[str], training: list[Record], tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = table_text_eval(monkeypatch)
    by_text = parent_of(script, records, texts, tokenizer)
    assert parent(records, texts, tokenizer=tokenizer).by_text == pytest.approx(by_text, abs=1e-9)
    by_text = parent_of(script, records, texts, tokenizer, training)
    assert parent_c(records, texts, training, tokenizer=tokenizer).by_text == pytest.approx(by_text, abs=1e-9)
    for metric, value in diversity_of(monkeypatch, texts, tokenizer).items():
        found = measure(records, texts, [metric], tokenizer=tokenizer).statistics[metric]
        assert found.value == pytest.approx(value, abs=1e-12), metric


def plain_copied(records: list[Record], texts: list[str]) -> float:
    """Copied values by a search in padded texts, without patterns."""

    def has(text: str, value: str) -> bool:
        padded = f" {re.sub(r'[^A-Za-z0-9 ]', ' ', text)} "
        plain = re.sub(r"[^A-Za-z0-9 ]", " ", value)
        return any(f" {form} " in padded for form in (plain, plain[:1].upper() + plain[1:]))

    pairs = [
        (record, text, value)
        for record, text in zip(records, texts, strict=True)
        for value in {f.value for f in record.facts}
    ]
    wanted = [(text, value) for record, text, value in pairs if any(has(own, value) for own in record.references)]
    return sum(has(text, value) for text, value in wanted) / len(wanted)


def test_copied_values_equal_a_plain_search() -> None:
    own = SETS["pairs"]
    records = records_of(own["records"])
    for name, system in own["systems"].items():
        found = copied(records, system["texts"]).value
        assert found == pytest.approx(plain_copied(records, system["texts"])), name
    assert (
        copied(records, own["systems"]["reference"]["texts"]).value > copied(records, ["It is."] * len(records)).value
    )


@pytest.mark.parametrize(
    ("value", "reference", "text", "share"),
    [
        ("Blue Spice", "Blue Spice is a pub.", "The Blue Spice.", 1),
        ("Blue Spice", "Blue Spice is a pub.", "Blue Spices", 0),
        ("Blue Spice", "Blue Spice is a pub.", "blue spice", 0),
        ("pub", "It is a pub.", "Pub on the river", 1),
        ("pub", "It is a pub.", "a publican", 0),
        ("yes", "Children are welcome.", "no", 1),  # nothing to copy
        ("Abilene,_Texas", "It is in Abilene, Texas.", "Abilene, Texas", 1),
        ("£20-25", "It costs £20-25.", "about £20-25", 1),
        ("£20-25", "It costs £20-25.", "about £20-250", 0),
        ("蓝门", "蓝门是一家酒吧。", "我喜欢蓝门酒吧", 1),
        ("ß", "ß", "SS", 0),
    ],
)
def test_a_value_is_copied_letter_for_letter(value: str, reference: str, text: str, share: float) -> None:
    record = Record("1", (Fact(None, "x", value),), (reference,))
    assert copied([record], [text]).value == share


def test_differences_of_diversity() -> None:
    rich = [f"Number {number} is a house near the {number} th tree ." for number in range(120)]
    poor = ["It is a house near a tree , and this is all ."] * 120
    for metric in (lambda texts: distinct(texts, 1), msttr):
        found = compare(metric(rich), metric(poor), draws=200)
        assert found.low > 0
        assert found.p == pytest.approx(1 / 201)
        score = interval(metric(rich), draws=200)
        assert 0 < score.low < score.value < score.high <= 1
        same = compare(metric(rich), metric(rich), draws=200)
        assert (same.value, same.p) == (0, 1)


def test_the_interval_of_distinct_n_has_the_chosen_share() -> None:
    """Sets of texts from one source: their spread is not larger than the jackknife says, and of its order."""
    random = np.random.default_rng(3)
    frequencies = 1 / np.arange(1, 400)
    words = [f"w{number}" for number in range(1, 400)]

    def texts() -> list[str]:
        return [" ".join(random.choice(words, 8, p=frequencies / frequencies.sum())) for _ in range(80)]

    scores = [interval(distinct(texts(), 1)) for _ in range(60)]
    spread = np.std([score.value for score in scores])
    widths = np.mean([(score.high - score.low) / 2 / 1.96 for score in scores])
    assert 0.8 * spread < widths < 2 * spread


def test_what_a_score_needs_is_said() -> None:
    bare = Record("7", (), ("A pub.",))
    with pytest.raises(DataError, match=r"PARENT needs facts, and record '7' has none"):
        measure([bare], ["A pub."], ["parent"])
    pub = Record("1", (Fact(None, "type", "pub"),), ("A pub.",))
    assert "--train" in measure([pub], ["A pub."], ["parent_c"]).missing["parent_c"]
    assert set(METRICS) > NEED_FACTS


def test_letters_are_compared_in_composed_form() -> None:
    text = "Quán Hồ Tây ở phố Phủ Đổng."
    facts = (Fact(None, "tên", "Hồ Tây"), Fact("Phủ Đổng", "là", "phố"))
    composed = Record("1", facts, (text,))
    parts = [
        Fact(fact.subject and unicodedata.normalize("NFD", fact.subject), fact.attribute, fact.value) for fact in facts
    ]
    decomposed = Record("1", tuple(parts), (unicodedata.normalize("NFD", text),))
    names = ["bleu", "rouge_l", "chrf", "multi_bleu", "copied", "parent", "slots"]
    wanted = measure([composed], [text], names)
    assert "composed" not in wanted.note
    for record, own in (
        (composed, decomposed.references[0]),
        (decomposed, text),
        (decomposed, decomposed.references[0]),
    ):
        found = measure([record], [own], names)
        assert "were composed" in found.note
        values = {name: measured.value for name, measured in found.statistics.items()}
        assert values == {name: measured.value for name, measured in wanted.statistics.items()}
    assert wanted.statistics["bleu"].value == pytest.approx(1)


def test_a_signature_names_draws_and_seed() -> None:
    pub = Record("1", (Fact(None, "type", "pub"),), ("A pub.",))
    score = interval(parent([pub], ["A pub."]), draws=200, seed=5)
    assert "|refs:1|bs:200|seed:5|version:tailora-" in score.signature
    assert "|interval:jackknife|version:tailora-" in interval(distinct(["A pub."], 1)).signature
