"""The time of an update, estimated from a few blocks of the base."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bases import save_tokenizer
from networks import network
from tailora.core.errors import UserError
from tailora.data.examples import Example
from tailora.models.load import Base, load_base, load_part, outline
from tailora.models.save import save_quantized
from tailora.training import block_timing, int8
from tailora.training.block_timing import update_seconds
from tailora.training.methods import prepare
from tailora.training.pass_memory import without_values
from tailora.training.settings import TrainSettings
from tailora.training.trees.prefix_tree import build
from training_cases import METHODS, settings_of

BLOCKS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 8},
    "llama": {"num_hidden_layers": 8},
    "gemma3_text": {"num_hidden_layers": 8},
    "gpt_neo": {"num_layers": 8, "attention_types": [[["global", "local"], 4]]},
}
TEXTS = [Example(str(n), (n, 2, 3), (*range(10, 20 + n), 0)) for n in range(4, 12)]


def saved(folder: Path, family: str, **config: Any) -> Path:
    """A base of eight blocks."""
    vocabulary = save_tokenizer(folder)
    network(family, **{**BLOCKS[family], "vocab_size": vocabulary, **config}).save_pretrained(folder)
    return folder


def outlined(settings: TrainSettings) -> Base:
    with without_values():
        base = outline(settings.base)
        prepare(base, settings)
    return base


@pytest.mark.parametrize("is_quantised", [False, True])
@pytest.mark.parametrize("family", BLOCKS)
def test_part_has_the_first_blocks(tmp_path: Path, family: str, is_quantised: bool) -> None:
    folder = saved(tmp_path / "base", family)
    if is_quantised:
        save_quantized(load_base(str(folder)), tmp_path / "int8", "int8")
        folder = tmp_path / "int8"
    whole, part = load_base(str(folder), dtype=torch.float32).model, load_part(str(folder), 3).model
    others = dict(whole.named_parameters())
    own = dict(part.named_parameters())
    assert len(own) < len(others)
    assert all(torch.equal(parameter, others[name]) for name, parameter in own.items())
    assert {name for name in others if ".3." not in name and name not in own} == {
        name for name in others if any(f".{number}." in name for number in range(4, 8))
    }
    assert torch.isfinite(part(torch.tensor([[1, 2, 3]])).logits).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_timed_and_draws_no_random_number(tmp_path: Path, method: str) -> None:
    folder = saved(tmp_path, "gpt2")
    settings = settings_of(method, base=str(folder), dropout=0.1 if METHODS[method].get("method") is None else 0.0)
    states = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
    precision = "int8" if method == "lora" and int8.supported() else "fp32"
    base = outlined(settings)
    seconds, nodes = update_seconds(base, TEXTS, settings, "cpu", precision)
    assert seconds > 0
    assert nodes == len(build(TEXTS))
    assert (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())) == states
    again, _ = update_seconds(base, TEXTS, settings, "cpu", precision)
    assert again == seconds  # kept for the machine


@pytest.mark.parametrize("method", ["lora", "full"])
def test_estimate_is_near_the_time_of_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Also beside other processes; `benchmarks/plan.py` measures how near."""
    folder = saved(tmp_path, "gpt2", n_embd=256, n_layer=16)
    settings = settings_of(method, base=str(folder))
    ratios = []
    for lap in range(3):
        monkeypatch.setenv("TAILORA_CACHE", str(tmp_path / str(lap)))
        estimate, _ = update_seconds(outlined(settings), TEXTS, settings, "cpu", "fp32")
        base = load_base(str(folder), dtype=torch.float32)
        prepare(base, settings)
        real = block_timing._Timer(base, build(TEXTS), settings, "cpu", "fp32").seconds()
        ratios.append(estimate / real)
        if 0.67 < ratios[-1] < 1.5:
            return
    pytest.fail(f"estimates are {ratios} times the real ones")


def test_what_cannot_be_shortened_is_an_error_that_a_plan_survives(tmp_path: Path) -> None:
    folder = saved(tmp_path, "gpt2")
    settings = TrainSettings(data="restaurants", base=str(folder), targets=("h.7.attn.c_attn",))
    with pytest.raises(UserError, match="match"):
        update_seconds(outlined(settings), TEXTS, settings, "cpu", "fp32")
