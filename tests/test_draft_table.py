"""The n-grams of training texts: against counts made naively, in files, beside adapters, and in commands."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from adapters import WARNINGS_OF_PEFT, peft_model, small, trained
from bases import save_adapter, save_base
from networks import llama
from tailora import cli
from tailora.adapters import formats
from tailora.adapters.arithmetic import combined
from tailora.adapters.config import LoraConfig
from tailora.adapters.draft_table import ORDER, START, DraftTable
from tailora.adapters.formats import draft_file, peft
from tailora.adapters.ngram_counts import draft_table
from tailora.core.errors import AdapterError
from tailora.engine.drafting import Accuracy, NgramDrafter, OpenText, Predictor
from tailora.inference.setup import resolve_models

pytestmark = WARNINGS_OF_PEFT
Pairs = list[tuple[tuple[int, ...], tuple[int, ...]]]


def pairs(seed: int = 0, count: int = 60) -> Pairs:
    """Texts with a preference for the token after the last one, and prompts that contain part of their tokens."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        text = [int(rng.integers(1, 9))]
        while len(text) < 12 and text[-1] != 0:
            text.append(int((text[-1] + (1 if rng.random() < 0.7 else rng.integers(9))) % 9))
        made.append((tuple(int(token) for token in rng.choice(9, 4)), tuple(text)))
    return made


def naive(texts: Pairs) -> dict[tuple[int, ...], dict[int, float]]:
    """The probabilities after each context, by the definition."""
    following: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for _, text in texts:
        whole = (START, *text)
        for place in range(1, len(whole)):
            for length in range(min(place, ORDER) + 1):
                following[whole[place - length : place]][whole[place]] += 1
    chances: dict[tuple[int, ...], dict[int, float]] = {}
    for context in sorted(following, key=len):
        counts = following[context]
        total = sum(counts.values())
        if not context:
            chances[context] = {token: count / total for token, count in counts.items()}
            continue
        shorter = chances[context[1:]]
        kinds = len(counts)
        chances[context] = {t: (n + kinds * shorter[t]) / (total + kinds) for t, n in counts.items()}
    return {context: chances[context] for context, counts in following.items() if context and sum(counts.values()) > 1}


def test_a_table_has_the_probabilities_of_the_definition() -> None:
    texts = pairs()
    table, expected = draft_table(texts, "v"), naive(texts)
    assert len(table.keys) == len(expected)
    plain = dataclasses.replace(table, words=table.words[:0], factors=table.factors[:0])
    for context, chances in expected.items():
        token, chance = plain.predict(context, (), ()) or (0, 0.0)
        assert chance == pytest.approx(max(chances.values()), abs=1 / 255)
        assert chances[token] == pytest.approx(max(chances.values()), abs=1 / 255)
    assert plain.predict((START, 77), (), ()) is None


def test_longer_histories_and_unknown_beginnings_use_what_is_known() -> None:
    texts: Pairs = [((9,), (1, 2, 3, 0))] * 3
    table = draft_table(texts, "v")
    histories = ((START, 1), (5, 6, 7, 1, 2), (8, 3))
    assert [(table.predict(history, (), ()) or (None,))[0] for history in histories] == [2, 3, 0]


def test_what_the_prompt_contains_is_preferred_until_it_is_said() -> None:
    texts: Pairs = []
    for value in (5, 6, 7):
        texts += [((value, 20), (1, value, 2, 3, 0))] * (12 - value)
    table = draft_table(texts, "v")
    for value in (5, 6, 7):
        token, chance = table.predict((START, 1), {value, 20}, {1}) or (0, 0.0)
        assert token == value
        assert chance > 0.8
    assert (table.predict((START, 1), {7, 20}, {1, 7}) or (0,))[0] != 7


def test_a_table_keeps_its_size_and_what_says_most() -> None:
    rng = np.random.default_rng(0)
    often = [((1,), (11, 12, 13, 0))] * 50
    rare = [((1,), tuple(int(token) for token in rng.integers(20, 90, 20))) for _ in range(400)]
    table = draft_table([*rare, *often], "v", largest=12_000)
    assert 0 < len(table.keys) < 1000
    assert [(table.predict(history, (), ()) or (0,))[0] for history in ((START, 11), (11, 12), (12, 13))] == [12, 13, 0]


def test_no_texts_give_an_empty_table(tmp_path: Path) -> None:
    table = draft_table([((1,), ())], "v")
    draft_file.write(table, tmp_path)
    again = draft_file.read(tmp_path)
    assert again is not None
    assert again.predict((START,), (), ()) is None


def equal(one: DraftTable | None, other: DraftTable | None) -> bool:
    if one is None or other is None:
        return one is other
    arrays = ("keys", "tokens", "chances", "words", "factors")
    return one.vocabulary == other.vocabulary and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


def test_files_are_read_back_exactly_and_small(tmp_path: Path) -> None:
    table = draft_table(pairs(), "v")
    draft_file.write(table, tmp_path)
    assert (tmp_path / draft_file.FILE).stat().st_size < 20_000
    again = draft_file.read(tmp_path)
    assert equal(again, table)
    assert equal(pickle.loads(pickle.dumps(again)), table)
    wide = dataclasses.replace(table, tokens=table.tokens + np.uint32(2**20))
    draft_file.write(wide, tmp_path)
    assert equal(draft_file.read(tmp_path), wide)


def damaged(folder: Path, how: str) -> None:
    path = folder / draft_file.FILE
    table = draft_table(pairs(), "v")
    draft_file.write(table, folder)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in ("keys", "tokens", "chances", "words", "factors")}
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif how == "text":
        path.write_text("no table", encoding="utf-8")
    elif how == "version":
        save_file(arrays, path, metadata | {"format": "2"})
    elif how == "order":
        save_file(arrays | {"keys": arrays["keys"][::-1].copy()}, path, metadata)
    elif how == "shape":
        save_file(arrays | {"chances": arrays["chances"][1:].copy()}, path, metadata)
    elif how == "type":
        save_file(arrays | {"keys": arrays["keys"].astype(np.float32)}, path, metadata)
    elif how == "missing":
        save_file({name: array for name, array in arrays.items() if name != "tokens"}, path, metadata)
    else:
        path.write_bytes(bytes(9 * 2**20))


@pytest.mark.parametrize("how", ["cut", "text", "version", "order", "shape", "type", "missing", "large"])
def test_a_damaged_table_is_a_warning_and_the_adapter_is_read(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = dataclasses.replace(small(), base_fingerprint="0" * 64)
    peft.save(adapter, tmp_path / "adapter")
    damaged(tmp_path / "adapter", how)
    with caplog.at_level(logging.WARNING):
        again = formats.load(tmp_path / "adapter")
    assert again.drafts is None
    assert again.content_hash == adapter.content_hash
    assert f"{draft_file.FILE}: " in caplog.text
    assert "make it again with `tailora draft`, or delete it" in caplog.text


def test_peft_loads_a_folder_with_a_table_and_it_survives_reading_and_writing(tmp_path: Path) -> None:
    adapter = trained(llama(), LoraConfig(rank=4, targets=("attention",)))
    table = draft_table(pairs(), "v")
    with_table = dataclasses.replace(adapter, drafts=table)
    assert with_table.content_hash == adapter.content_hash
    peft.save(with_table, tmp_path / "one")
    peft_model(llama(), tmp_path / "one")
    again = formats.load(tmp_path / "one")
    assert equal(again.drafts, table)
    peft.save(again, tmp_path / "two")
    assert equal(formats.load(tmp_path / "two").drafts, table)
    assert equal(combined([again], [0.5]).drafts, table)
    assert combined([again, again], [0.5, 0.5]).drafts is None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "base"
    save_base(folder, "llama")
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
        for name in ("Ada", "Bob", "Cy")
        for colour in ("red", "blue", "green", "grey")
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_command_makes_the_table_of_an_adapter(base: str, data: Path, tmp_path: Path, capsys: Any) -> None:
    adapter = save_adapter(tmp_path / "adapter", base)
    assert cli.main(["draft", str(adapter), "--data", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["output"] == str(adapter / draft_file.FILE)
    assert result["texts"] == 12
    assert result["bytes"] == (adapter / draft_file.FILE).stat().st_size
    setup = resolve_models(None, {"a": adapter})
    drafts = setup.adapters["a"].drafts
    assert drafts is not None
    assert len(drafts.keys) == result["contexts"]
    (ids,) = (setup.tokenizer.encode(" is gre"),)
    token, _ = drafts.predict(ids, setup.tokenizer.encode("colour : grey"), ids) or (0, 0.0)
    assert setup.tokenizer.decode([token]) in ("e", "y")


def test_the_command_refuses_what_is_no_folder(base: str, data: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["draft", str(tmp_path), "--data", str(data)]) == 2
    assert "is not the folder of an adapter or of a model; name a folder" in capsys.readouterr().err


def test_a_merged_model_keeps_the_table(base: str, data: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base)
    assert cli.main(["draft", str(adapter), "--data", str(data)]) == 0
    merge = ["merge", "--adapter", str(adapter), "--output", str(tmp_path / "merged"), "--no-check"]
    assert cli.main(merge) == 0
    kept = resolve_models(str(tmp_path / "merged"), {}).base_drafts
    assert equal(kept, resolve_models(None, {"a": adapter}).adapters["a"].drafts)
    assert cli.main(["draft", str(tmp_path / "merged"), "--data", str(data)]) == 0
    assert equal(resolve_models(str(tmp_path / "merged"), {}).base_drafts, kept)


def test_a_table_of_another_vocabulary_is_not_used(base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = save_adapter(tmp_path / "adapter", base, drafts=draft_table(pairs(), "another"))
    with caplog.at_level(logging.WARNING):
        setup = resolve_models(None, {"a": adapter})
    assert setup.adapters["a"].drafts is None
    assert "its table of drafts is for another tokenizer and is not used" in caplog.text


def drafter(table: DraftTable | None, **options: Any) -> NgramDrafter:
    return NgramDrafter(lambda name: table, 9, **options)


def test_a_table_with_tokens_that_the_network_lacks_is_not_used() -> None:
    table = draft_table([((1,), (1, 2, 9, 0))] * 9, "v")
    assert drafter(table).draft([OpenText(drafter(table).predictor((), []), 5)], 1) == [()]
    assert NgramDrafter(lambda name: table, 10).predictor((), []).predict(())[0] == 1  # type: ignore[index]


def test_drafts_are_longer_where_steps_cost_little_and_predictions_are_right() -> None:
    table = draft_table([((1,), (1, 2, 3, 4, 5, 6, 7, 0))] * 99, "v")
    made = drafter(table)
    alone = OpenText(made.predictor((), []), 50)
    assert made.draft([alone], 1) == [(1, 2, 3, 4, 5, 6, 7, 0)]
    assert made.draft([OpenText(alone.predictor, 3)], 1) == [(1, 2, 3)]
    assert drafter(table, longest=2).draft([alone], 1) == [(1, 2)]
    many = [OpenText(made.predictor((), []), 50) for _ in range(500)]
    assert made.draft(many, 500) == [()] * 500
    for _ in range(50):  # texts that are never as predicted
        predictor = made.predictor((), [])
        made.draft([OpenText(predictor, 50)], 1)
        predictor.add(8)
    assert made.draft([OpenText(made.predictor((), []), 50)], 1) == [()]


def test_without_a_table_what_the_prompt_repeats_is_drafted() -> None:
    prompt = (3, 4, 5, 6, 7, 8)
    predictor = Predictor(prompt, None, Accuracy())
    for token in (1, 4, 5):
        predictor.add(token)
    draft: list[int] = []
    for expected in (6, 7, 8):
        token, _ = predictor.predict(draft) or (0, 0.0)
        assert token == expected
        draft.append(token)
    assert predictor.predict(draft) is None


def test_the_error_of_a_missing_array_is_ours(tmp_path: Path) -> None:
    damaged(tmp_path, "missing")
    with pytest.raises(AdapterError, match="does not have the arrays of a table of drafts"):
        draft_file._read(tmp_path / draft_file.FILE)
