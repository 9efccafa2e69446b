"""A run from settings to a run directory, on the smallest base model that can be."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer  # type: ignore[attr-defined]
from transformers import GPT2Config, GPT2LMHeadModel

from tailora.adapters import formats
from tailora.adapters.adapter import changes_nothing
from tailora.data.examples import Example
from tailora.data.tokenizer import Tokenizer
from tailora.errors import SettingsError, TrainingError
from tailora.models.account import merged_account
from tailora.train import loop
from tailora.train.forward import passes
from tailora.train.optimizer import learning_rate
from tailora.train.run import run
from tailora.train.settings import TrainSettings

ROWS = [
    {"facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
    for name in ("Ada", "Bob", "Cy")
    for colour in ("red", "blue", "green", "grey")
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([row["text"] for row in ROWS], vocab_size=300, special_tokens=["<|endoftext|>"])
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}), encoding="utf-8")
    size = bpe.get_vocab_size()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=size, n_positions=64, n_embd=32, n_layer=3, n_head=2, eos_token_id=0, bos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, rows in (("train", ROWS[:9]), ("valid", ROWS[9:])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def settings(base: Path, data: Path, output: Path, **more: object) -> TrainSettings:
    given: dict[str, object] = {
        "epochs": 4,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "device": "cpu",
    }
    return TrainSettings(data=str(data), base=str(base), output=output, **(given | more))  # type: ignore[arg-type]


def test_run_directory_of_an_adapter(base: Path, data: Path, tmp_path: Path) -> None:
    result = run(settings(base, data, tmp_path / "run"))
    written = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = result["validation_loss"]

    assert losses["after"] < losses["before"]
    assert losses["after"] == min(line["validation_loss"] for line in lines if "validation_loss" in line)
    assert written["steps"] == 12
    assert written["account"]["parameters"]["trainable"] == 3 * 2 * 8 * (32 + 32)
    assert sum("loss" in line for line in lines) == 12
    assert (tmp_path / "run" / "loss.svg").read_text(encoding="utf-8").startswith("<?xml")
    adapter = formats.load(tmp_path / "run" / "adapter")
    assert not changes_nothing(adapter)
    assert adapter.base_fingerprint == written["account"]["base_fingerprint"]
    assert adapter.meta["prompt_form"] == "paper"


def test_same_seed_same_adapter(base: Path, data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(settings(base, data, tmp_path / name, epochs=1, dropout=0.1))
    one, two = (formats.load(tmp_path / name / "adapter") for name in ("one", "two"))
    assert one.content_hash == two.content_hash


def test_accumulation_changes_nothing(base: Path, data: Path, tmp_path: Path) -> None:
    losses = []
    for nodes in (4096, 8):
        result = run(settings(base, data, tmp_path / str(nodes), tokens_per_pass=nodes))
        losses.append(result["validation_loss"]["after"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("method", "saved"), [("full", "model"), ("bitfit", "delta.safetensors"), ("top2", "delta.safetensors")]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_methods(base: Path, data: Path, tmp_path: Path, method: str, saved: str, precision: str) -> None:
    result = run(settings(base, data, tmp_path / "run", method=method, precision=precision, epochs=2))
    assert result["saved"] == saved
    assert result["validation_loss"]["after"] < result["validation_loss"]["before"]
    if method == "full":
        assert (tmp_path / "run" / "model" / "tokenizer.json").exists()
        return
    names = load_file(tmp_path / "run" / saved).keys()
    if method == "bitfit":
        assert all(name.endswith(".bias") for name in names)
    else:
        assert {name.split(".")[2] for name in names if ".h." in name} == {"1", "2"}
        assert "transformer.ln_f.weight" in names


def test_a_model_keeps_what_texts_begin_and_end_with(base: Path, data: Path, tmp_path: Path) -> None:
    """Chat templates in files of their own, end-of-text tokens, and the prompt form that it was trained on."""
    source = tmp_path / "base"
    shutil.copytree(base, source)
    ends = {"eos_token_id": [0, 5]}
    (source / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (source / "chat_template.jinja").write_text(template, encoding="utf-8")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("tools", encoding="utf-8")
    run(settings(source, data, tmp_path / "run", method="full", prompt_form="arrow", max_steps=2))
    made = tmp_path / "run" / "model"
    assert (made / "chat_template.jinja").read_text(encoding="utf-8") == template
    assert (made / "additional_chat_templates" / "tool_use.jinja").is_file()
    assert Tokenizer.from_folder(made).end_ids == {0, 5}
    assert merged_account(made)["prompt_form"] == "arrow"


def test_bf16_adapter_learns(base: Path, data: Path, tmp_path: Path) -> None:
    result = run(settings(base, data, tmp_path / "run", precision="bf16", targets=("attention",)))
    assert result["account"]["precision"] == "bf16"
    assert result["validation_loss"]["after"] < result["validation_loss"]["before"]


def test_patience_stops_early(base: Path, data: Path, tmp_path: Path) -> None:
    result = run(settings(base, data, tmp_path / "run", epochs=40, eval_every=1, patience=2, learning_rate=0.3))
    assert result["steps"] < 120


def test_a_base_at_chance_is_named(base: Path, data: Path, tmp_path: Path) -> None:
    result = run(settings(base, data, tmp_path / "run", epochs=1))
    assert "like chance" in result["warnings"][0]


def test_existing_run_is_kept(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="exists already; name a new run directory"):
        run(settings(base, data, tmp_path))


def test_unreachable_target_is_said(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="c_attn"):
        run(settings(base, data, tmp_path / "run", targets=("no_such_layer",)))
    assert not (tmp_path / "run").exists()


def test_adapter_that_learns_nothing_is_an_error(base: Path, data: Path, tmp_path: Path) -> None:
    # A learning rate so small that it is lost in fp32.
    with pytest.raises(TrainingError, match="still all zero after training; raise the learning rate"):
        run(settings(base, data, tmp_path / "run", max_steps=1, learning_rate=1e-300))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_learning_rate_rises_then_falls(schedule: str) -> None:
    rates = [learning_rate(n, 100, peak=2.0, warmup_steps=10, schedule=schedule) for n in range(100)]  # type: ignore[arg-type]
    assert rates[:10] == pytest.approx([0.2 * (n + 1) for n in range(10)])
    assert max(rates) == 2.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert math.isclose(rates[-1], 2.0) if schedule == "constant" else rates[-1] < 0.05


def test_passes_hold_every_example() -> None:
    examples = [Example(str(n), (n, 1, 2), (3, n, 4)) for n in range(9)]
    parts = list(passes(examples, 11))
    assert all(len(part) <= 11 for part in parts)
    assert sum(part.examples for part in parts) == 9
    assert sum(part.completion_tokens for part in parts) == 27


@pytest.mark.parametrize("eval_every", [2, 99])
def test_ctrl_c_keeps_what_was_learnt(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eval_every: int
) -> None:
    rates = itertools.count()

    def interrupted(*arguments: object, **options: object) -> float:
        if next(rates) == 5:
            raise KeyboardInterrupt
        return 1e-2

    monkeypatch.setattr(loop, "learning_rate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings(base, data, tmp_path / "run", eval_every=eval_every))
    written = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (written["interrupted"], written["steps"]) == (True, 5)
    assert (written["validation_loss"]["after"] is None) is (eval_every == 99)
    assert not changes_nothing(formats.load(tmp_path / "run" / "adapter"))


def test_a_larger_group_shares_more(base: Path, tmp_path: Path) -> None:
    rows = [
        {"facts": {"name": name}, "text": text}
        for name in ("Ada", "Bob")
        for text in (f"{name} is here.", f"{name} was here.", f"{name} is there.", f"{name} was there.")
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokens = {}
    for size in (None, 1, 4):
        result = run(settings(base, data, tmp_path / f"run{size}", epochs=1, group_size=size))
        tokens[size] = result["account"]["tokens_per_epoch"]["trees"]
    assert tokens[None] == tokens[1] > tokens[4]
