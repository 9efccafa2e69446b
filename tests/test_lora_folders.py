"""A model that the user loaded: adapted, trained in a loop of their own, saved for PEFT, loaded back."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import tailora.lora as lora
from networks import gpt2, llama, mixed, stir, token_ids
from tailora.adapters import formats
from tailora.core.errors import AdapterError, SettingsError
from tailora.models.load import fingerprint_module

pytestmark = [  # of PEFT
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
]
MODELS: dict[str, Callable[[], Any]] = {"gpt2": gpt2, "llama": llama}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "all linear": {"rank": 4, "alpha": 8, "targets": "all-linear", "dropout": 0.1},
    "rank-stabilised": {"targets": ["attention", "mlp"], "rslora": True, "rank_pattern": {"mlp.*": 2}},
    "DoRA": {"targets": "attention", "dora": True},
    "head and embedding": {"targets": ("head", "embedding")},
}


def logits(model: nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        result: torch.Tensor = model(token_ids()).logits
    return result


def train(model: nn.Module, steps: int = 5) -> list[float]:
    """A loop as in PyTorch's tutorials."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(input_ids=token_ids(), labels=token_ids()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


class Texts(Dataset[dict[str, torch.Tensor]]):
    """Rows of token ids, each its own target."""

    def __len__(self) -> int:
        return len(token_ids())

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"input_ids": token_ids()[row], "labels": token_ids()[row]}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("case", SETTINGS)
def test_a_loop_of_ones_own_then_peft_then_back(family: str, case: str, tmp_path: Path) -> None:
    model = MODELS[family]()
    plain = logits(model)
    paths = lora.attach(model, **SETTINGS[case])
    assert paths == [path for path, _ in lora.adapted_layers(model)]
    losses = train(model)
    assert losses[-1] < losses[0]
    trained = logits(model)
    assert (trained - plain).abs().max() > 1e-3
    lora.save(model, tmp_path / "adapter", base="me/base")

    in_peft = PeftModel.from_pretrained(MODELS[family](), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(in_peft), trained, atol=2e-5, rtol=1e-5)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (settings["task_type"], settings["base_model_name_or_path"]) == ("CAUSAL_LM", "me/base")

    again = MODELS[family]()
    adapter = lora.load(again, tmp_path / "adapter")
    assert torch.equal(logits(again), trained)
    assert lora.extract(again).content_hash == adapter.content_hash == lora.extract(model).content_hash
    assert train(again)[-1] < losses[-1]  # it can be trained on
    lora.detach(again)
    assert torch.equal(logits(again), plain)

    lora.merge(model, keep=True)
    torch.testing.assert_close(logits(model), trained, atol=2e-5, rtol=1e-5)
    lora.unmerge(model)
    assert torch.equal(logits(model), trained)


@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore::FutureWarning")
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_of_transformers(family: str, checkpointing: bool, tmp_path: Path) -> None:
    """Trains the adapter alone, and finds the best checkpoint again."""
    model = MODELS[family]()
    before = fingerprint_module(model)
    lora.attach(model, rank=4, targets="all-linear")
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        max_steps=6,
        per_device_train_batch_size=2,
        learning_rate=0.02,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        gradient_checkpointing=checkpointing,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Texts(), eval_dataset=Texts())
    trainer.train()
    history = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    assert min(history) < history[0]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(history), rel=1e-5)
    lora.save(model, tmp_path / "adapter")
    assert formats.load(tmp_path / "adapter").base_fingerprint == before
    trained = logits(model)
    in_peft = PeftModel.from_pretrained(MODELS[family](), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(in_peft), trained, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "case"), [*((family, case) for family in MODELS for case in SETTINGS), ("gpt2", "biases")]
)
def test_the_fingerprint_is_that_of_the_plain_network(family: str, case: str, tmp_path: Path) -> None:
    model = MODELS[family]()
    fingerprint = fingerprint_module(model)
    lora.attach(model, **(SETTINGS | {"biases": {"targets": "mlp", "bias": "all"}})[case])
    stir(model)
    lora.save(model, tmp_path / "adapter")
    assert formats.load(tmp_path / "adapter").base_fingerprint == fingerprint


def test_other_weights_are_refused_unless_forced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = gpt2()
    lora.attach(model)
    stir(model)
    lora.save(model, tmp_path / "adapter", meta={"prompt_form": "arrow"})
    other = gpt2(seed=1)
    plain = logits(other)
    with pytest.raises(AdapterError, match="it was trained on other weights than those of GPT2LMHeadModel"):
        lora.load(other, tmp_path / "adapter")
    assert torch.equal(logits(other), plain)
    with caplog.at_level(logging.WARNING):
        assert lora.load(other, tmp_path / "adapter", force=True).meta == {"prompt_form": "arrow"}
    assert "trained on other weights" in caplog.text
    assert (logits(other) - plain).abs().max() > 1e-3


def test_a_base_in_16_bits_is_not_fingerprinted(tmp_path: Path) -> None:
    model = gpt2().bfloat16()
    lora.attach(model)
    stir(model)
    lora.save(model, tmp_path / "adapter")
    assert formats.load(tmp_path / "adapter").base_fingerprint is None
    lora.load(gpt2(), tmp_path / "adapter")


def test_any_network_of_torch(tmp_path: Path) -> None:
    model = mixed()
    lora.attach(model, targets=["all-linear", "conv1"])
    stir(model)
    lora.save(model, tmp_path / "adapter")
    same = mixed()
    lora.load(same, tmp_path / "adapter")
    assert lora.extract(same).content_hash == lora.extract(model).content_hash


def test_an_adapter_that_changes_nothing_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = gpt2()
    lora.attach(model)
    with caplog.at_level(logging.WARNING):
        lora.save(model, tmp_path / "adapter")
    assert "still all zero" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1"),
        ({"targets": "q_projection"}, "target 'q_projection' matches no layer"),
        ({"targets": ()}, "targets"),
        ({"bias": "some"}, "bias must be one of"),
        ({"rank_pattern": {"nothing": 3}}, "'nothing' matches no adapted layer"),
        (
            {"config": lora.LoraConfig(), "rank": 3},
            "^rank: is not allowed together with config, which already contains it; use one",
        ),
    ],
)
def test_wrong_settings_change_nothing(values: dict[str, Any], message: str) -> None:
    model = llama()
    with pytest.raises(SettingsError, match=message):
        lora.attach(model, **values)
    assert all(parameter.requires_grad for parameter in model.parameters())
    lora.attach(model)
    with pytest.raises(SettingsError, match="already carries an adapter"):
        lora.attach(model)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_do_not_exist_cannot_be_trained(bias: Any) -> None:
    with pytest.raises(SettingsError, match="has a bias; use bias none, or adapt layers that have biases"):
        lora.attach(llama(), bias=bias)


def test_an_adapter_that_says_so_is_loaded_without_biases(tmp_path: Path) -> None:
    """PEFT writes `bias: all` for a base that has none, too."""
    model = llama()
    lora.attach(model)
    stir(model)
    lora.save(model, tmp_path / "adapter")
    for name in ("tailora.json", "README.md"):
        (tmp_path / "adapter" / name).unlink()
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"none"', '"all"'), encoding="utf-8")
    lora.load(llama(), tmp_path / "adapter")


def test_saving_without_an_adapter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="the network carries no adapter"):
        lora.save(gpt2(), tmp_path / "adapter")


def test_names_are_imported_when_they_are_used() -> None:
    assert set(lora.__all__) <= set(dir(lora))
    for name in lora.__all__:
        assert getattr(lora, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lora.nothing  # noqa: B018
    program = "import tailora.lora, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_initial_values_come_from_the_generator() -> None:
    values = []
    for seed in (0, 0, 1):
        model = gpt2()
        lora.attach(model, generator=torch.Generator().manual_seed(seed))
        layer = lora.extract(model).layers["transformer.h.0.attn.c_attn"]
        values.append(layer.branches[0].a)
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
