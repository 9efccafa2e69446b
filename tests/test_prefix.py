"""Prefix tuning: PEFT's forward pass with the same numbers, its folders in both directions, training and writing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from bases import save_base, save_tokenizer
from networks import network, outputs, stir, token_ids
from tailora import cli
from tailora.adapters import formats
from tailora.adapters.formats import peft
from tailora.adapters.insert import PREFIX, Insert
from tailora.core.errors import AdapterError, DataError, ModelError, SettingsError
from tailora.engine.decoding import Decoding
from tailora.families import FAMILIES
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate
from tailora.inserts.attachment import attach, attach_new, extract
from tailora.inserts.prefix import room_beside
from tailora.lora.inject import parameter_table
from tailora.models.load import load_base
from tailora.training.run import run
from tailora.training.settings import TrainSettings

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own
TOKENS = 3
TRAINED = [name for name, family in FAMILIES.items() if family.trained]
ROWS = [
    {"facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
    for name in ("Ada", "Bob", "Cy")
    for colour in ("red", "blue")
]


def with_prefix(family: str, seed: int = 0) -> Any:
    model = network(family)
    attach_new(model, "prefix", TOKENS, model_type=family, generator=torch.Generator().manual_seed(seed))
    return model


def in_peft(family: str) -> Any:
    settings = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS)
    torch.manual_seed(1)
    return get_peft_model(network(family), settings).eval()


def padded() -> dict[str, torch.Tensor]:
    """Two sequences, one of them padded on the right."""
    ids = token_ids()
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("family", TRAINED)
def test_logits_are_those_of_peft_with_its_folder(tmp_path: Path, family: str) -> None:
    theirs = in_peft(family)
    theirs.save_pretrained(tmp_path / "theirs")
    value = formats.load_any(tmp_path / "theirs")
    assert isinstance(value, Insert)
    assert (value.kind, value.size, value.base_fingerprint) == ("prefix", TOKENS, None)
    ours = network(family)
    before = outputs(ours)
    attach(ours, value, model_type=family)
    with torch.no_grad():
        for batch in ({"input_ids": token_ids()}, padded()):
            seen = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            assert torch.allclose(ours(**batch).logits[seen], theirs(**batch).logits[seen], atol=1e-4)
    assert not torch.allclose(outputs(ours), before, atol=1e-2)


@pytest.mark.parametrize("family", TRAINED)
def test_peft_reads_our_folder(tmp_path: Path, family: str) -> None:
    ours = with_prefix(family)
    stir(ours)
    formats.save_insert(extract(ours, "prefix"), tmp_path / "ours")
    theirs = PeftModel.from_pretrained(network(family), tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.allclose(theirs(**padded()).logits[0], ours(**padded()).logits[0], atol=1e-4)
    card = (tmp_path / "ours" / "README.md").read_text("utf-8")
    assert "library_name: peft" in card
    assert f"| Virtual tokens | {TOKENS} |" in card
    again = formats.load_any(tmp_path / "ours")
    assert isinstance(again, Insert)
    assert again.content_hash == extract(ours, "prefix").content_hash


def test_a_projected_prefix_of_peft_is_read(tmp_path: Path) -> None:
    torch.manual_seed(1)
    settings = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=TOKENS, prefix_projection=True, encoder_hidden_size=16
    )
    theirs = get_peft_model(network("llama"), settings).eval()
    theirs.save_pretrained(tmp_path)
    value = formats.load_any(tmp_path)
    assert isinstance(value, Insert)
    ours = network("llama")
    attach(ours, value, model_type="llama")
    with torch.no_grad():
        assert torch.allclose(ours(**padded()).logits[0], theirs(**padded()).logits[0], atol=1e-5)


def test_peft_continues_a_text_with_our_prefix_as_the_engine_does(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    base = load_base(str(tmp_path / "base"))
    attach_new(base.model, "prefix", TOKENS, model_type="llama", generator=torch.Generator().manual_seed(0))
    stir(base.model)
    formats.save_insert(extract(base.model, "prefix"), tmp_path / "prefix")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "prefix")
    setup = resolve_models(str(tmp_path / "base"), {"own": tmp_path / "prefix"})
    running = start_engine(setup, precision="fp32", device="cpu")
    prompts = [Prompt((5, 6, 7)), Prompt((5, 6, 7, 8, 9)), Prompt((9,))]
    for prompt, text in zip(prompts, generate(running, prompts, Decoding(max_new_tokens=8)), strict=True):
        ids = torch.tensor([prompt.tokens])
        whole = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        wanted = whole[0, ids.shape[1] :].tolist()
        assert list(text.token_ids) == wanted[: len(text.token_ids)]


@pytest.mark.parametrize("family", TRAINED)
def test_a_new_prefix_is_what_the_base_keeps_of_tokens_before_the_text(family: str) -> None:
    ids = torch.randint(64, (TOKENS,), generator=torch.Generator().manual_seed(0))
    longer = torch.cat([ids.expand(2, -1), token_ids()], 1)
    assert torch.allclose(outputs(with_prefix(family)), outputs(network(family), longer)[:, TOKENS:], atol=1e-5)


def test_only_the_prefix_learns_and_its_count_for_gpt2_medium_is_near_that_of_the_lora_paper() -> None:
    """Table 3 of Hu et al. 2021 has 0.35M for prefix tuning, which no number of virtual tokens gives exactly."""
    model = GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16, vocab_size=50257))
    attach_new(model, "prefix", 7, model_type="gpt2")
    table = parameter_table(model)
    assert (table.trainable, table.frozen) == (2 * 24 * 1024 * 7, 354_823_168)
    assert table.trainable == 344_064 == pytest.approx(0.35e6, rel=0.02)


def test_a_network_without_keys_and_values_is_refused() -> None:
    config = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4}
    with pytest.raises(ModelError, match="prefix"):
        attach_new(network("mamba", **config), "prefix", TOKENS, model_type="mamba")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def trained(base: Path, data: Path, folder: Path, **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"epochs": 2, "learning_rate": 0.05, "precision": "fp32", "device": "cpu"}
    values |= {"data": str(data), "valid": str(data), "base": str(base), "method": "prefix", "output": folder}
    return run(TrainSettings(**values | {"prefix_tokens": TOKENS} | more))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_run_is_written_with_as_it_was_trained(tmp_path: Path, data: Path, family: str) -> None:
    base = tmp_path / "base"
    save_base(base, family)
    result = trained(base, data, tmp_path / "run")
    assert result["validation_loss"]["after"] < result["validation_loss"]["before"]
    folder = tmp_path / "run" / "adapter"
    settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert (settings["peft_type"], settings["num_virtual_tokens"]) == ("PREFIX_TUNING", TOKENS)
    assert list(load_file(folder / "adapter_model.safetensors")) == [PREFIX]
    value = formats.load_any(folder)
    assert isinstance(value, Insert)
    assert value.parameters == result["account"]["parameters"]["trainable"]

    setup = resolve_models(None, {"own": tmp_path / "run"})
    running = start_engine(setup, precision="fp32", device="cpu")
    assert (running.backend, running.built_in) == ("torch", True)
    loaded = load_base(str(base))
    assert running.engine.backend.context == loaded.model.config.max_position_embeddings - TOKENS
    attach(loaded.model, value, model_type=loaded.model_type)
    prompts = [Prompt((5, 6, 7)), Prompt((5, 6, 7, 8, 9))]
    for prompt, text in zip(prompts, generate(running, prompts, Decoding(max_new_tokens=6)), strict=True):
        ids = list(prompt.tokens)
        for token in text.token_ids:
            assert loaded.model(torch.tensor([ids])).logits[0, -1].argmax() == token
            ids.append(token)


def test_gradient_checkpointing_computes_the_same(tmp_path: Path, data: Path) -> None:
    save_base(tmp_path / "base", "llama")
    values = [
        trained(tmp_path / "base", data, tmp_path / str(again), gradient_checkpointing=again)["validation_loss"][
            "after"
        ]
        for again in (False, True)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_prefix_takes_positions_of_the_base(tmp_path: Path, data: Path) -> None:
    base = tmp_path / "base"
    save_base(base, "gpt2")
    limit = load_base(str(base)).model.config.max_position_embeddings
    with pytest.raises(DataError, match="token"):
        trained(base, data, tmp_path / "run", prefix_tokens=limit - 4)


@pytest.mark.parametrize(
    ("config", "tokens", "room"),
    [
        ({}, 5, 27),
        ({"sliding_window": 20}, 5, 15),
        ({"sliding_window": 20}, 0, 32),
        ({"sliding_window": 20, "layer_types": ["full_attention"]}, 5, 27),
        ({"sliding_window": None}, 5, 27),
    ],
)
def test_a_window_bounds_what_is_beside_a_prefix(config: dict[str, Any], tokens: int, room: int) -> None:
    assert room_beside(tokens, SimpleNamespace(num_hidden_layers=2, **config), 32) == room
    assert room_beside(0, SimpleNamespace(), None) is None


def test_texts_longer_than_a_window_are_refused_with_a_prefix(tmp_path: Path, data: Path) -> None:
    base = tmp_path / "base"
    model = network("mistral", vocab_size=save_tokenizer(base), sliding_window=40)
    model.save_pretrained(base)
    with pytest.raises(DataError, match="token"):
        trained(base, data, tmp_path / "run")


def test_what_cannot_be_done_with_a_prefix_is_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(tmp_path / "base", "gpt2")
    trained(tmp_path / "base", data, tmp_path / "run")
    command = ["merge", "--adapter", str(tmp_path / "run"), "--output", str(tmp_path / "merged")]
    assert cli.main(command) == 2
    message = capsys.readouterr().err
    assert "a prefix of keys and values, which cannot be merged" in message
    assert "use the folder itself, with generate, evaluate or serve" in message
    with pytest.raises(AdapterError, match="cannot be loaded beside other adapters"):
        peft.load(tmp_path / "run" / "adapter")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_virtual_tokens": 4}, "in the shape"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "not for a causal language model"),
        ({"token_dim": None}, "token_dim"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    value = Insert("prefix", {PREFIX: np.zeros((TOKENS, 4, 2, 8), np.float32)})
    formats.save_insert(value, tmp_path / "prefix")
    file = tmp_path / "prefix" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | change), encoding="utf-8")
    with pytest.raises(AdapterError, match=problem):
        formats.load_any(tmp_path / "prefix")


@pytest.mark.parametrize("overlong", ["error", "drop", "cut"])
def test_a_prefix_that_leaves_no_room_is_named(tmp_path: Path, overlong: str) -> None:
    values: dict[str, Any] = {"data": "restaurants", "limit": 2, "overlong": overlong, "output": tmp_path / "run"}
    with pytest.raises(SettingsError, match="5,000 virtual tokens leave no room for texts"):
        run(TrainSettings(method="prefix", prefix_tokens=5000, **values))
