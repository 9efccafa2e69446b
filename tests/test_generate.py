"""Texts from records: the library function and the verb, with and without an adapter, merged and beside the weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bases import save_base
from tailora.adapters import formats
from tailora.adapters.config import LoraConfig
from tailora.errors import AdapterError, DataError, SettingsError
from tailora.generate import GenerateSettings, generate, parse_record, run
from tailora.lora import inject
from tailora.merge import MergeSettings
from tailora.merge import run as merge
from tailora.models.load import load_base

META = {"linearization": "paper", "prompt_form": "arrow"}


@pytest.fixture
def base(tmp_path: Path) -> str:
    save_base(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path, base: str) -> Path:
    """An adapter with random values in a run directory."""
    return save_adapter(tmp_path / "run" / "adapter", base).parent


def save_adapter(folder: Path, base: str, **changes: Any) -> Path:
    loaded = load_base(base)
    inject.attach(loaded.model, LoraConfig(rank=4, alpha=8, targets=("attention", "mlp")))
    torch.manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    made = inject.extract(loaded.model)
    values = {"base_fingerprint": loaded.fingerprint, "base_name": loaded.name, "meta": META, **changes}
    formats.save(dataclasses.replace(made, **values), folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"id": f"r{n}", "facts": {"name": "Blue Spice"[: n + 2], "food": "x" * n}} for n in range(7)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_results_come_in_input_order_whatever_the_batches(base: str) -> None:
    loaded = load_base(base)
    prompts = [loaded.tokenizer.encode("a" * length) for length in (9, 2, 30, 4, 17)]
    told: list[tuple[int, int]] = []
    batched = generate(loaded, prompts, max_new_tokens=8, batch_size=2, progress=lambda *news: told.append(news))
    for prompt, made in zip(prompts, batched, strict=True):
        (alone,) = generate(loaded, [prompt], max_new_tokens=8)
        assert (made.token_ids, made.text) == (alone.token_ids, alone.text)
        assert made.prompt_tokens == len(prompt)
    assert [prompts_done for prompts_done, _ in told] == [2, 2, 1]
    assert sum(tokens for _, tokens in told) == sum(made.completion_tokens for made in batched)


def test_candidates_are_sorted_and_start_with_the_text(base: str) -> None:
    loaded = load_base(base)
    (made,) = generate(loaded, [[5, 6]], max_new_tokens=5, num_beams=4, num_candidates=3, length_penalty=0.0)
    assert made.candidates[0].token_ids == made.token_ids
    logprobs = [candidate.logprob for candidate in made.candidates]
    assert logprobs == sorted(logprobs, reverse=True)
    assert len(logprobs) == 3


def test_the_verb_writes_the_contracts_rows_in_order(adapter: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "outputs.jsonl"
    settings = GenerateSettings(
        adapter=adapter, data=str(data), output=output, max_new_tokens=6, batch_size=3, precision="fp32"
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
        result = run(GenerateSettings(data=str(data), max_new_tokens=8, precision="fp32", num_beams=2, **settings))
        return [{**row, "adapter": None, "logprob": round(row["logprob"], 2)} for row in result["outputs"]]

    beside = texts(adapter=adapter)
    merge(MergeSettings(adapter=adapter, output=tmp_path / "merged"))
    assert texts(adapter=adapter, merged=True) == beside
    assert texts(base=str(tmp_path / "merged")) == beside, "the folder tells the prompt form too"
    assert texts(base=str(tmp_path / "base"), prompt_form="arrow") != beside


def test_one_record_is_printed(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"adapter": adapter, "max_new_tokens": 6, "precision": "fp32"}
    first = run(GenerateSettings(record="name : Blue Spice | Type : pub", **settings))["outputs"]
    second = run(GenerateSettings(record='{"name": "Blue Spice", "Type": "pub"}', **settings))["outputs"]
    assert first == second
    assert first[0]["text"] in capsys.readouterr().out


@pytest.mark.parametrize("text", ["nonsense", "{", "[3]", "", "a : b | c"])
def test_what_is_no_record_is_said(text: str) -> None:
    with pytest.raises(DataError):
        parse_record(text)


def test_an_adapter_of_another_base_is_refused(base: str, data: Path, tmp_path: Path, caplog: Any) -> None:
    foreign = save_adapter(tmp_path / "foreign", base, base_fingerprint="0" * 64)
    settings = {"adapter": foreign, "data": str(data), "max_new_tokens": 2, "precision": "fp32"}
    with pytest.raises(AdapterError, match=r"trained on other weights than those of .*--force"):
        run(GenerateSettings(**settings))
    assert run(GenerateSettings(**settings, force=True))["records"] == 7
    assert "used all the same" in caplog.text


def test_an_adapter_without_a_fingerprint_is_warned_about_once(
    base: str, data: Path, tmp_path: Path, caplog: Any
) -> None:
    unknown = save_adapter(tmp_path / "unknown", base, base_fingerprint=None)
    run(GenerateSettings(adapter=unknown, data=str(data), max_new_tokens=2, precision="fp32"))
    assert caplog.text.count("only shapes are checked") == 1


def test_an_adapter_that_changes_nothing_is_refused(base: str, tmp_path: Path) -> None:
    loaded = load_base(base)
    inject.attach(loaded.model, LoraConfig(rank=2))
    formats.save(dataclasses.replace(inject.extract(loaded.model), base_name=base), tmp_path / "idle")
    with pytest.raises(AdapterError, match="changes nothing"):
        run(GenerateSettings(adapter=tmp_path / "idle", record="a : b"))


def test_a_prompt_over_the_context_names_its_record(base: str) -> None:
    with pytest.raises(DataError, match=r"record 1: its prompt has \d+ tokens and the model takes 96"):
        run(GenerateSettings(base=base, record="name : " + "x" * 100, precision="fp32"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": "tiny"}, "nothing to write about"),
        ({"base": "tiny", "data": "a", "record": "b"}, "both --data and --record"),
        ({"data": "a"}, "neither an adapter nor a base model"),
        ({"base": "tiny", "data": "a", "merged": True}, "there is no adapter to merge"),
        ({"base": "tiny", "data": "a", "num_candidates": 2}, "greedy search has one result"),
        ({"base": "tiny", "data": "a", "num_beams": 2, "temperature": 1.0}, "beams are not sampled"),
        ({"base": "tiny", "data": "a", "top_p": 0.0}, "top_p"),
    ],
)
def test_settings_are_checked_before_anything_is_loaded(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        GenerateSettings(**values)
