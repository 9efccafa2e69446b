"""The verb: each form holds the same updates, in the names and orders of the program that reads it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from peft import PeftModel
from transformers import AutoModelForCausalLM

from bases import KINDS, META, save_base
from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.arithmetic import difference
from tailora.adapters.config import LoraConfig
from tailora.adapters.formats import gguf, loralib
from tailora.commands.convert import ConvertSettings, run
from tailora.core.errors import AdapterError, CheckError, SettingsError
from tailora.families import FAMILIES
from tailora.lora import inject
from tailora.models.load import load_base

LLAMA_CPP = [kind for kind, family in FAMILIES.items() if family.llama_cpp]
TOKENS = torch.tensor([[5, 9, 200, 31, 7]])


def save_adapter(tmp_path: Path, kind: str, config: LoraConfig | None = None) -> tuple[Path, Any]:
    """A random adapter of uneven ranks and slices, and the logits with it."""
    save_base(tmp_path / "base", kind)
    loaded = load_base(str(tmp_path / "base"))
    pattern = {"mlp.c_proj" if kind == "gpt2" else "down_proj": 2}
    inject.attach(
        loaded.model,
        config or LoraConfig(rank=4, alpha=8, targets=("attention.qv", "mlp"), rank_pattern=pattern, rslora=True),
        model_type=loaded.model_type,
    )
    torch.manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    made = inject.extract(loaded.model)
    origin: dict[str, Any] = {"base_fingerprint": loaded.fingerprint, "base_name": loaded.name, "meta": META}
    formats.save(dataclasses.replace(made, **origin), tmp_path / "a")
    with torch.inference_mode():
        return tmp_path / "a", loaded.model(TOKENS).logits


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ["peft", "openvino-genai"])
def test_peft_computes_the_same_from_either_folder(tmp_path: Path, kind: str, to: Any) -> None:
    adapter, wanted = save_adapter(tmp_path, kind)
    run(ConvertSettings(adapter=adapter, to=to, output=tmp_path / "out"))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "out")
    with torch.inference_mode():
        torch.testing.assert_close(model(TOKENS).logits, wanted, rtol=1e-4, atol=1e-4)
    if to == "openvino-genai":
        config = formats.load(tmp_path / "out").config
        assert config.alpha == config.rank, "that program knows no alpha"


def test_loralib_and_back(tmp_path: Path) -> None:
    adapter, _ = save_adapter(tmp_path, "gpt2", LoraConfig(rank=4, alpha=8, targets=("attention.qv",)))
    result = run(ConvertSettings(adapter=adapter, to="loralib", output=tmp_path / "lora.bin"))
    assert result["verify"]["largest_relative_difference"] < 1e-6
    slices: dict[str, Any] = {"alpha": 8.0, "enable_lora": (True, False, True)}
    assert difference(formats.load(adapter), loralib.load(tmp_path / "lora.bin", **slices)) < 1e-6


def test_how_the_adapter_was_trained_is_kept_or_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter, _ = save_adapter(tmp_path, "gpt2")
    run(ConvertSettings(adapter=adapter, to="openvino-genai", output=tmp_path / "genai"))
    assert formats.load(tmp_path / "genai").meta == META
    assert not caplog.records
    run(ConvertSettings(adapter=adapter, to="loralib", output=tmp_path / "lora.bin"))
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path / 'lora.bin'}: loralib's form has no place for how the adapter was trained "
        "(linearization, prompt_form); keep its own folder too"
    )
    loralib.save(formats.load(adapter), tmp_path / "noted.bin", wrapped=True)
    assert formats.load(tmp_path / "noted.bin").meta == META
    assert len(caplog.records) == 1


def test_a_damaged_note_of_the_origin_is_an_error(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "gpt2")
    writer = GGUFWriter(tmp_path / "lora.gguf", "gpt2")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_string("tailora.origin", '{"meta": 5}')
    for factor, shape in (("a", (2, 32)), ("b", (96, 2))):
        writer.add_tensor(f"blk.0.attn_qkv.weight.lora_{factor}", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    job = ConvertSettings(adapter=tmp_path / "lora.gguf", to="peft", base=str(tmp_path / "base"), output=tmp_path / "o")
    with pytest.raises(AdapterError, match="the note on the adapter's base and prompts is damaged; convert"):
        run(job)


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_holds_llama_cpp_s_names_and_order(tmp_path: Path, kind: str) -> None:
    adapter, _ = save_adapter(tmp_path, kind)
    run(ConvertSettings(adapter=adapter, to="gguf", output=tmp_path / "lora.gguf"))
    reader = GGUFReader(tmp_path / "lora.gguf")
    told = {name: reader.get_field(name) for name in ("general.architecture", "general.type", "adapter.type")}
    theirs = FAMILIES[kind].llama_cpp
    assert theirs is not None
    assert [field and field.contents() for field in told.values()] == [theirs.name, "adapter", "lora"]
    alpha = reader.get_field("adapter.lora.alpha")
    assert alpha is not None
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    names = ("model.layers.1.self_attn.q_proj", "blk.1.attn_q", "model.layers.1.mlp.down_proj", "blk.1.ffn_down")
    if kind == "gpt2":
        names = ("transformer.h.1.attn.c_attn", "blk.1.attn_qkv", "transformer.h.1.mlp.c_proj", "blk.1.ffn_down")
    layers = formats.load(adapter).layers
    for ours, name in (names[:2], names[2:]):
        a, b = tensors[f"{name}.weight.lora_a"], tensors[f"{name}.weight.lora_b"]
        # llama.cpp: alpha / rank · B A, the rank read off B.
        found = alpha.contents() / b.shape[1] * (b @ a)
        wanted = np.zeros_like(found)
        for branch in layers[ours].branches:
            low, high = branch.rows or (0, len(wanted))
            wanted[low:high] += branch.scale * (branch.b @ branch.a)
        if theirs.rows == "rotary pairs" and name.endswith("attn_q"):
            # Its rotation turns rows 2i and 2i + 1 of a head together, Hugging Face's i and i + half.
            heads = wanted.reshape(4, 8, -1)
            wanted = np.stack([heads[:, :4], heads[:, 4:]], axis=2).reshape(found.shape)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_from_gguf_and_back(tmp_path: Path, kind: str) -> None:
    adapter, wanted = save_adapter(tmp_path, kind)
    base = str(tmp_path / "base")
    run(ConvertSettings(adapter=adapter, to="gguf", output=tmp_path / "lora.gguf"))
    result = run(ConvertSettings(adapter=tmp_path / "lora.gguf", to="peft", base=base, output=tmp_path / "back"))
    assert difference(formats.load(adapter), formats.load(tmp_path / "back")) < 1e-6
    loaded = load_base(base)
    again = formats.load(tmp_path / "back")
    assert (again.base_fingerprint, again.base_name, again.meta) == (loaded.fingerprint, loaded.name, META)
    inject.attach(loaded.model, again.config, again, model_type=loaded.model_type)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(TOKENS).logits, wanted, rtol=1e-4, atol=1e-4)
    assert result["verify"]["on_base"]["against_base"]["mean"] > 0
    receipt = json.loads((tmp_path / "back" / "verify.json").read_text(encoding="utf-8"))
    assert receipt["largest_relative_difference"] < 1e-5
    assert (tmp_path / "lora.gguf.verify.json").is_file()


def test_gguf_files_that_cannot_be_read(tmp_path: Path) -> None:
    adapter, _ = save_adapter(tmp_path, "gpt2")
    run(ConvertSettings(adapter=adapter, to="gguf", output=tmp_path / "lora.gguf"))
    with pytest.raises(SettingsError, match="name the layers of its base"):
        run(ConvertSettings(adapter=tmp_path / "lora.gguf", to="peft", output=tmp_path / "out"))
    save_base(tmp_path / "llama", "llama")
    with pytest.raises(AdapterError, match="is not an adapter of a llama model"):
        run(
            ConvertSettings(
                adapter=tmp_path / "lora.gguf", to="peft", base=str(tmp_path / "llama"), output=tmp_path / "o"
            )
        )
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "lora.gguf").read_bytes()[:100])
    with pytest.raises(AdapterError, match="is not a GGUF file, or is damaged"):
        run(
            ConvertSettings(
                adapter=tmp_path / "cut.gguf", to="peft", base=str(tmp_path / "base"), output=tmp_path / "o"
            )
        )


def test_what_does_not_read_back_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, _ = save_adapter(tmp_path, "gpt2")
    wrong = formats.save

    def save(made: Any, path: Path, to: Any) -> None:
        layers = dict(made.layers)
        layers.pop(next(iter(layers)))
        wrong(dataclasses.replace(made, layers=layers), path, to)

    monkeypatch.setattr(formats, "save", save)
    with pytest.raises(CheckError, match="the written updates differ"):
        run(ConvertSettings(adapter=adapter, to="peft", output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "targets", "why"),
    [
        ("gpt2", ("embedding",), "it stores a tied head and embedding as one tensor"),
        ("gpt2", ("head",), "it stores a tied head and embedding as one tensor"),
        ("llama", ("head", "attention"), "it stores a tied head and embedding as one tensor"),
        ("gpt2", ("wpe",), "of all embeddings it adapts only that of tokens"),
    ],
)
def test_what_a_form_has_no_place_for(tmp_path: Path, kind: str, targets: tuple[str, ...], why: str) -> None:
    adapter, _ = save_adapter(tmp_path, kind, LoraConfig(rank=4, alpha=8, targets=targets))
    with pytest.raises(AdapterError, match=f"llama.cpp cannot adapt .*: {why}; merge it with"):
        run(ConvertSettings(adapter=adapter, to="gguf", output=tmp_path / "lora.gguf"))
    assert not (tmp_path / "lora.gguf").exists()


@pytest.mark.parametrize("model_type", ["opt", "gpt_neo", "llama4_text", "mixtral", "granitemoe", "apertus"])
def test_architectures_whose_rows_are_not_known_are_refused(tmp_path: Path, model_type: str) -> None:
    adapter, _ = save_adapter(tmp_path, "llama")
    config = {"model_type": model_type, "num_hidden_layers": 2, "num_attention_heads": 4}
    with pytest.raises(AdapterError, match=f"Tailora does not know how llama.cpp stores the weights of '{model_type}'"):
        gguf.save(formats.load(adapter), tmp_path / "lora.gguf", config)


@pytest.mark.parametrize("model_type", LLAMA_CPP)
def test_each_architecture_s_rows_are_llama_cpp_s(tmp_path: Path, model_type: str) -> None:
    """B numbers its rows, of 4 heads (2 of keys) with 8 outputs each; what llama.cpp's converters do was worked out."""
    pairs = [0, 4, 1, 5, 2, 6, 3, 7]
    rows = {"q": list(range(32)), "k": list(range(16))}
    if model_type in ("llama", "mistral", "smollm3", "granite", "olmo"):
        rows = {part: [8 * head + each for head in range(len(rows[part]) // 8) for each in pairs] for part in rows}
    path = {"phi3": "self_attn.qkv_proj", "gpt2": "attn.c_attn", "bloom": "self_attention.query_key_value"}
    whole = path.get(model_type, "attention.query_key_value" if model_type == "gpt_neox" else "")
    blocks = {"gpt2": "transformer.h.1", "bloom": "transformer.h.1", "gpt_neox": "gpt_neox.layers.1"}
    block = blocks.get(model_type, "model.layers.1")
    if whole:
        stacked = [24 * head + 8 * part + each for part in range(3) for head in range(4) for each in range(8)]
        modules = {
            f"{block}.{whole}": ("attn_qkv", stacked if model_type in ("gpt_neox", "bloom") else list(range(96)))
        }
    else:
        modules = {f"{block}.self_attn.{part}_proj": (f"attn_{part}", rows[part]) for part in rows}
    layers = {}
    for name, (_, order) in modules.items():
        b = np.arange(len(order), dtype=np.float32)[:, None]
        layers[name] = LayerAdapter("linear", (LowRank(np.ones((1, 32), np.float32), b, 1.0),), None, len(order))
    adapter = Adapter(LoraConfig(rank=1, alpha=1, targets=tuple(modules)), layers)
    config = {"model_type": model_type, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    gguf.save(adapter, tmp_path / "lora.gguf", config)
    tensors = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(tmp_path / "lora.gguf").tensors}
    for theirs, order in modules.values():
        assert tensors[f"blk.1.{theirs}.weight.lora_b"][:, 0].tolist() == order
    again = gguf.load(tmp_path / "lora.gguf", config, modules)
    assert difference(adapter, again) < 1e-6


@pytest.mark.parametrize("alpha", [None, 0.0])
def test_a_gguf_without_an_alpha_is_applied_as_it_is(tmp_path: Path, alpha: float | None) -> None:
    adapter, _ = save_adapter(tmp_path, "gpt2", LoraConfig(rank=4, alpha=4, targets=("attention",)))
    writer = GGUFWriter(tmp_path / "lora.gguf", "gpt2")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, theirs in (("attn.c_attn", "attn_qkv"), ("attn.c_proj", "attn_output")):
        for block in range(2):
            (branch,) = formats.load(adapter).layers[f"transformer.h.{block}.{name}"].branches
            writer.add_tensor(f"blk.{block}.{theirs}.weight.lora_a", branch.a)
            writer.add_tensor(f"blk.{block}.{theirs}.weight.lora_b", branch.b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    base = str(tmp_path / "base")
    capital = (tmp_path / "lora.gguf").rename(tmp_path / "LORA.GGUF")
    run(ConvertSettings(adapter=capital, to="peft", base=base, output=tmp_path / "back"))
    assert difference(formats.load(adapter), formats.load(tmp_path / "back")) < 1e-6


@pytest.mark.parametrize(("rows", "alpha", "message"), [(30, 8, "blk.0.attn_q.weight"), (32, np.inf, "alpha is inf")])
def test_a_gguf_of_another_base_is_one_error(tmp_path: Path, rows: int, alpha: float, message: str) -> None:
    writer = GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.ones((rows, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    with pytest.raises(AdapterError, match=f"lora.gguf: .*{message}"):
        gguf.load(tmp_path / "lora.gguf", config, ["model.layers.0.self_attn.q_proj"])


def test_mistakes(tmp_path: Path) -> None:
    adapter, _ = save_adapter(tmp_path, "gpt2")
    with pytest.raises(SettingsError, match="already exists"):
        run(ConvertSettings(adapter=adapter, to="peft", output=tmp_path / "base"))
    with pytest.raises(SettingsError, match=r"end the name in \.gguf"):
        run(ConvertSettings(adapter=adapter, to="gguf", output=tmp_path / "lora"))
    made = formats.load(adapter)
    formats.save(dataclasses.replace(made, base_name=None), tmp_path / "nameless")
    with pytest.raises(SettingsError, match="does not name its base"):
        run(ConvertSettings(adapter=tmp_path / "nameless", to="gguf", output=tmp_path / "lora.gguf"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize(("to", "name"), [("loralib", "lora.bin"), ("gguf", "lora.gguf"), ("peft", "lora")])
def test_a_full_disk_is_an_error_with_the_file(tmp_path: Path, to: str, name: str) -> None:
    """By the limit on the size of files, which fails as a full disk does."""
    adapter, _ = save_adapter(tmp_path, "gpt2", LoraConfig(rank=64, alpha=8, targets=("all-linear",)))
    output = tmp_path / "out" / name
    program = (
        "import resource, sys; from tailora.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = ["convert", "--adapter", str(adapter), "--to", to, "--output", str(output)]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert f"tailora: {output}" in done.stderr
    assert "File too large; free some space or choose another place" in done.stderr
    assert list(output.parent.iterdir()) == []
