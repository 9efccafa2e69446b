"""Houlsby's and Lin's adapters: the formulas written out, every family, the files, and what texts are written with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

import tailora
from bases import save_adapter, save_base
from live_server import get, post, served, settings_for
from networks import network, outputs, stir, token_ids
from tailora import cli
from tailora.adapters import formats
from tailora.adapters.insert import Insert, InsertKind
from tailora.core.errors import AdapterError, ModelError, SettingsError, TrainingError
from tailora.engine.decoding import Decoding
from tailora.families import FAMILIES
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate
from tailora.inserts.attachment import attach, attach_new, extract
from tailora.lora.inject import parameter_table
from tailora.models.load import load_base
from tailora.training.run import run
from tailora.training.settings import TrainSettings

KINDS: tuple[InsertKind, ...] = ("adapter-h", "adapter-l")
ROWS = [
    {"facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
    for name in ("Ada", "Bob", "Cy")
    for colour in ("red", "blue")
]


def with_insert(family: str, kind: InsertKind, size: int = 6) -> Any:
    model = network(family)
    attach_new(model, kind, size, model_type=family, generator=torch.Generator().manual_seed(0))
    stir(model, size=0.3)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_formulas_written_out_for_gpt2(kind: InsertKind) -> None:
    model = with_insert("gpt2", kind)
    weights: dict[str, torch.Tensor] = dict(model.named_parameters())
    width, heads = 32, 4
    ids = token_ids()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def product(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def adapted(x: torch.Tensor, name: str) -> torch.Tensor:
        inner = norm(x, f"{name}.norm") if kind == "adapter-l" else x
        inner = F.linear(inner, weights[f"{name}.down.weight"], weights[f"{name}.down.bias"])
        inner = F.relu(inner) if kind == "adapter-l" else F.gelu(inner)
        added: torch.Tensor = F.linear(inner, weights[f"{name}.up.weight"], weights[f"{name}.up.bias"])
        return x + added

    def attention(x: torch.Tensor, name: str) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, heads, -1).transpose(1, 2) for part in product(x, f"{name}.c_attn").split(width, 2)
        )
        scores = q @ k.mT / (width // heads) ** 0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        return product((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width), f"{name}.c_proj")

    with torch.no_grad():
        x = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][: ids.shape[1]]
        for number in range(2):
            block = f"transformer.h.{number}"
            y = attention(norm(x, f"{block}.ln_1"), f"{block}.attn")
            x = x + (adapted(y, f"{block}.attn.c_proj.adapter_h") if kind == "adapter-h" else y)
            y = F.gelu(product(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate="tanh")
            y = product(y, f"{block}.mlp.c_proj")
            x = x + (adapted(y, f"{block}.mlp.c_proj.adapter_h") if kind == "adapter-h" else y)
            if kind == "adapter-l":
                x = adapted(x, f"{block}.adapter_l")
        expected = norm(x, "transformer.ln_f") @ weights["transformer.wte.weight"].T
    assert torch.allclose(outputs(model), expected, atol=1e-4)
    assert not torch.allclose(outputs(model), outputs(network("gpt2")), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_insert_changes_nothing_and_only_it_learns(family: str, kind: InsertKind) -> None:
    model = network(family)
    before = outputs(model)
    attach_new(model, kind, 6, model_type=family, generator=torch.Generator().manual_seed(0))
    assert torch.equal(outputs(model), before)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == set(extract(model, kind).tensors)
    assert extract(model, kind).changes_nothing
    assert len(learning) == 2 * {"adapter-h": 2 * 4, "adapter-l": 6}[kind]  # two blocks
    stir(model)
    assert not torch.equal(outputs(model), before)


def test_an_unknown_architecture_takes_lins_adapters_and_refuses_houlsbys() -> None:
    with pytest.raises(ModelError, match="'gptj' are not known"):
        attach_new(network("gptj"), "adapter-h", 6, model_type="gptj")
    attach_new(network("gptj"), "adapter-l", 6, model_type="gptj")


@pytest.mark.parametrize(
    ("kind", "size", "count", "published"),
    [
        ("adapter-l", 6, 368_784, 0.37e6),
        ("adapter-l", 224, 11_089_152, 11.09e6),
        ("adapter-h", 112, 11_064_576, 11.09e6),
    ],
)
def test_counts_for_gpt2_medium_are_those_of_the_lora_paper(
    kind: InsertKind, size: int, count: int, published: float
) -> None:
    """Table 3 of Hu et al. 2021, and the formula of its section 5.1: adapters · (2 d r + r + d), and 2 d per norm."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16))
    attach_new(model, kind, size, model_type="gpt2")
    table = parameter_table(model)
    adapters, norms = (24, 24) if kind == "adapter-l" else (48, 0)
    assert table.trainable == count == adapters * (2 * 1024 * size + size + 1024) + norms * 2 * 1024
    assert count == pytest.approx(published, rel=0.005)
    assert table.frozen == 354_823_168


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_read_as_it_was_saved(tmp_path: Path, kind: InsertKind) -> None:
    model = with_insert("llama", kind)
    value = extract(model, kind)
    formats.save_insert(value, tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text("utf-8")
    assert f"# {'Houlsby' if kind == 'adapter-h' else 'Lin'}'s adapters for a language model" in card
    assert "library_name" not in card
    assert f"| Parameters | {value.parameters:,} |" in card
    again = formats.load_any(tmp_path / "adapter")
    assert isinstance(again, Insert)
    assert (again.content_hash, again.size, again.parameters) == (value.content_hash, 6, value.parameters)
    other = network("llama")
    attach(other, again, model_type="llama")
    assert torch.equal(outputs(other), outputs(model))
    with pytest.raises(AdapterError, match="is missing or has another shape"):
        attach(network("gpt2"), again, model_type="gpt2")

    file = tmp_path / "adapter" / "adapter.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(AdapterError, match="are not those that it was written with"):
        formats.load_any(tmp_path / "adapter")


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = with_insert("llama", "adapter-l")
    next(p for p in model.parameters() if p.requires_grad).data.fill_(torch.nan)
    with pytest.raises(AdapterError, match="not finite"):
        formats.save_insert(extract(model, "adapter-l"), tmp_path / "adapter")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(params=["gpt2", "llama"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_base(tmp_path / "base", request.param)
    return tmp_path / "base"


def trained(kind: str, base: Path, data: Path, folder: Path, **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"epochs": 2, "learning_rate": 0.05, "precision": "fp32", "device": "cpu"}
    values |= {"data": str(data), "valid": str(data), "base": str(base), "method": kind, "output": folder}
    return run(TrainSettings(**values | {"bottleneck": 6} | more))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_written_with_as_it_was_trained(tmp_path: Path, base: Path, data: Path, kind: InsertKind) -> None:
    result = trained(kind, base, data, tmp_path / "run")
    assert result["saved"] == "adapter"
    assert result["validation_loss"]["after"] < result["validation_loss"]["before"]
    value = formats.load_any(tmp_path / "run" / "adapter")
    assert isinstance(value, Insert)
    assert value.parameters == result["account"]["parameters"]["trainable"]
    assert {"prompt_form", "linearization", "data_fingerprint"} <= set(value.meta)

    setup = resolve_models(None, {"own": tmp_path / "run"})
    running = start_engine(setup, precision="fp32", device="cpu")
    assert (running.backend, running.built_in) == ("torch", True)
    loaded = load_base(str(base))
    attach(loaded.model, value, model_type=loaded.model_type)
    prompts = [Prompt((5, 6, 7)), Prompt((5, 6, 7, 8, 9))]
    for prompt, text in zip(prompts, generate(running, prompts, Decoding(max_new_tokens=6)), strict=True):
        ids = list(prompt.tokens)
        for token in text.token_ids:
            assert loaded.model(torch.tensor([ids])).logits[0, -1].argmax() == token
            ids.append(token)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_done_with_an_insert_is_refused(
    tmp_path: Path, data: Path, kind: InsertKind, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(tmp_path / "base", "gpt2")
    trained(kind, tmp_path / "base", data, tmp_path / "run")
    place = str(tmp_path / "run")
    for command in (
        ["merge", "--adapter", place, "--output", str(tmp_path / "merged")],
        ["convert", "--adapter", place, "--to", "peft", "--output", str(tmp_path / "converted")],
        ["quantize", "--adapter", place, "--to", "int8", "--output", str(tmp_path / "quantized")],
        ["verify", "--adapter", place, "--model", str(tmp_path / "base")],
    ):
        assert cli.main(command) == 2, command
        message = capsys.readouterr().err
        assert "cannot be merged, converted or combined" in message
        assert "use the folder itself, with generate, evaluate or serve" in message

    setup = resolve_models(None, {"own": tmp_path / "run"})
    with pytest.raises(AdapterError, match="leave out --merged"):
        start_engine(setup, merged=True)
    with pytest.raises(AdapterError, match="run it with --backend torch"):
        start_engine(setup, backend="openvino")
    other = save_adapter(tmp_path / "lora", str(tmp_path / "base"))
    several = resolve_models(None, {"own": tmp_path / "run", "lora": other})
    with pytest.raises(AdapterError, match="cannot run together with other adapters; run it alone"):
        start_engine(several)
    with pytest.raises(SettingsError, match="int8 is available for method lora only"):
        TrainSettings(data="restaurants", method=kind, precision="int8")


def test_a_run_that_learns_nothing_is_an_error(tmp_path: Path, data: Path) -> None:
    save_base(tmp_path / "base", "gpt2")
    with pytest.raises(TrainingError, match="still all zero"):
        trained("adapter-l", tmp_path / "base", data, tmp_path / "run", learning_rate=1e-30, max_steps=1)


def test_generate_and_evaluate_run_with_an_insert(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(tmp_path / "base", "gpt2")
    trained("adapter-h", tmp_path / "base", data, tmp_path / "run")
    model = ["--adapter", str(tmp_path / "run"), "--max-new-tokens", "4", "--json"]
    texts = tmp_path / "texts.jsonl"
    assert cli.main(["generate", *model, "--input", str(data), "--output", str(texts)]) == 0
    assert json.loads(capsys.readouterr().out)["backend"] == "torch"
    assert len(texts.read_text("utf-8").splitlines()) == len(ROWS)
    command = ["evaluate", *model, "--input", str(data), "--metrics", "bleu", "--output", str(tmp_path / "scores")]
    assert cli.main(command) == 0


@pytest.mark.parametrize("kind", [*KINDS, "prefix"])
def test_an_insert_is_served_and_loaded_alone(tmp_path: Path, data: Path, kind: str) -> None:
    save_base(tmp_path / "base")
    trained(kind, tmp_path / "base", data, tmp_path / "run")
    facts = {"name": "Ada", "colour": "red"}
    with tailora.load(str(tmp_path / "base"), adapters=tmp_path / "run", precision="fp32") as model:
        (text,) = model.generate([facts], max_new_tokens=6)
        with pytest.raises(AdapterError, match="is part of the network"):
            model.add_adapter("other", tmp_path / "run")
    with served(settings_for(tmp_path, adapter=(f"own={tmp_path / 'run'}",))) as server:
        assert [model["id"] for model in get(server, "/v1/models").json()["data"]] == ["own"]
        answer = post(server, "/v1/records", {"model": "own", "records": [facts], "max_tokens": 6})
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"][0]["text"] == text
        assert post(server, "/tokenize", {"prompt": "x", "add_special_tokens": False}).json()["count"] == 1
        assert post(server, "/detokenize", {"tokens": [0]}).json() == {"prompt": "<|endoftext|>"}


@pytest.mark.parametrize("kind", [*KINDS, "prefix"])
def test_a_server_loads_no_insert_while_it_runs(tmp_path: Path, data: Path, kind: str) -> None:
    save_base(tmp_path / "base")
    save_adapter(tmp_path / "one", str(tmp_path / "base"))
    trained(kind, tmp_path / "base", data, tmp_path / "run")
    changes = {"adapter": (f"one={tmp_path / 'one'}",), "adapter_folder": tmp_path}
    with served(settings_for(tmp_path, **changes)) as server:
        answer = post(server, "/v1/load_lora_adapter", {"lora_name": "own", "lora_path": "run/adapter"})
        assert 400 <= answer.status_code < 500
        message = answer.json()["error"]["message"]
        assert ("is missing" if kind in KINDS else "cannot be merged, converted or combined") in message
