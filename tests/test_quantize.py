"""Fewer bits: what is written reads back, runs as the base does, says what it cost, and is refused where wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from transformers import AutoModelForCausalLM

from bases import KINDS, save_base
from tailora.adapters import formats
from tailora.adapters.config import LoraConfig
from tailora.commands.merge import MergeSettings
from tailora.commands.merge import run as merge
from tailora.commands.quantize import QuantizeSettings, run
from tailora.core.errors import CheckError, ModelError, SettingsError
from tailora.engine.decoding import Decoding
from tailora.inference.quantization import Quantization, _check_losses
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate
from tailora.lora import inject
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.load import load_base
from tailora.models.rounding import packed, round_rows
from tailora.models.save import save_quantized
from tailora.models.weights import stored_tensors


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_base(tmp_path / "base", request.param)
    return tmp_path / "base"


def save_adapter(base: Path, folder: Path, size: float = 0.3) -> Path:
    loaded = load_base(str(base))
    config = LoraConfig(rank=4, alpha=8, targets=("attention",))
    inject.attach(loaded.model, config, model_type=loaded.model_type, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, size)
    adapter = replace(inject.extract(loaded.model), base_fingerprint=loaded.fingerprint, base_name=str(base))
    formats.save(adapter, folder)
    return folder


def quantize(base: Path, output: Path, **others: Any) -> dict[str, Any]:
    data = base.parent / "data.jsonl"
    rows = [{"facts": {"name": name, "colour": "red"}, "text": f"{name} is red."} for name in ("Ada", "Bob")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values: dict[str, Any] = {"to": "int8", "input": str(data), "new_tokens": 4, "tolerance": 0.5, **others}
    return run(QuantizeSettings(base=str(base), output=output, **values))


def texts(folder: Path, precision: Any, adapters: dict[str, Path] | None = None) -> list[tuple[int, ...]]:
    running = start_engine(resolve_models(str(folder), adapters or {}), precision=precision)
    prompts = [Prompt((5, 9, 20, 7), name) for name in adapters or (None,)]
    return [made.token_ids for made in generate(running, prompts, Decoding(max_new_tokens=12))]


@pytest.mark.parametrize("is_merged", [False, True])
def test_records_are_read_and_prompted_as_in_training(tmp_path: Path, is_merged: bool) -> None:
    save_base(tmp_path / "base", "gpt2")
    reading = {"format": None, "columns": {"facts": ["name"], "text": "ref"}, "language": None}
    path = save_adapter(tmp_path / "base", tmp_path / "plain")
    adapter = replace(formats.load(path), meta={"prompt_form": "arrow", "linearization": "paper", "reading": reading})
    formats.save(adapter, tmp_path / "adapter")
    chosen: dict[str, Any] = {"adapter": tmp_path / "adapter"}
    base = tmp_path / "base"
    ready, table = tmp_path / "ready.jsonl", tmp_path / "table.csv"
    ready.write_text(json.dumps({"facts": {"name": "X"}, "text": "X is there ."}) + "\n", encoding="utf-8")
    table.write_text("name,note,text,ref\nX,new,nothing,X is there .\n", encoding="utf-8")
    expected = quantize(base, tmp_path / "one", input=str(ready), to="bf16", **chosen)
    if is_merged:  # the model's folder says how what was merged into it was trained
        merge(MergeSettings(adapter=(tmp_path / "adapter",), base=str(base), output=tmp_path / "merged"))
        base, chosen = tmp_path / "merged", {}
    found = quantize(base, tmp_path / "two", input=str(table), to="bf16", **chosen)
    assert found["perplexity"]["before"] == pytest.approx(expected["perplexity"]["before"], rel=1e-4)


@given(arrays.arrays(np.float32, (5, 7), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_step_for_each_output(weight: np.ndarray) -> None:
    for outputs_first in (True, False):
        values, scale, zero = packed(weight, outputs_first=outputs_first)
        assert values.dtype == zero.dtype == np.uint8
        assert scale.shape == ((5, 1) if outputs_first else (1, 7))
        back = (values.astype(np.float32) - zero) * scale
        assert np.all(np.abs(back - weight) <= scale * 0.501 + 1e-30)
    # What is read back rounds to the same numbers again, so that an engine that rounds runs what the folder says.
    numbers, steps = round_rows(weight)
    again, _ = round_rows(numbers * steps)
    large = np.abs(weight).max(1) > 1e-30
    assert np.array_equal(again[large], numbers[large])


def test_an_8_bit_folder_runs_as_the_base_does_in_8_bits(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = quantize(base, out)
    assert result["bytes"]["after"] < 0.45 * result["bytes"]["before"]  # norms and biases stay, and this base is small
    assert json.loads((out / "verify.json").read_text(encoding="utf-8"))["perplexity"] == result["perplexity"]
    assert texts(out, "int8") == texts(base, "int8")
    exact, rounded = stored_tensors(base), stored_tensors(out)
    assert exact.keys() == rounded.keys()
    assert result["against_before"]["mean"] > 0
    assert fingerprint_folder(out) == fingerprint_folder(base)
    loaded = dict(load_base(str(out)).model.named_parameters())
    for name, tensor in rounded.items():
        assert np.array_equal(loaded[name].detach().numpy(), np.array(tensor.raw))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which files are mapped")
def test_no_file_is_deleted_while_it_is_mapped(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses that."""
    deleted, unlink = [], Path.unlink

    def checked(path: Path, missing_ok: bool = False) -> None:
        assert str(path) not in Path("/proc/self/maps").read_text(encoding="utf-8")
        deleted.append(path.name)
        unlink(path, missing_ok)

    loaded = load_base(str(base), dtype=torch.float32)
    (tmp_path / "int8").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", checked)
        save_quantized(loaded, tmp_path / "int8", "int8")
    assert "model.safetensors" in deleted


def test_other_programs_are_told_that_they_cannot_read_it(base: Path, tmp_path: Path) -> None:
    quantize(base, tmp_path / "out")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("to", ["bf16", "fp16"])
def test_sixteen_bits_are_what_transformers_loads(base: Path, tmp_path: Path, to: str) -> None:
    result = quantize(base, tmp_path / "out", to=to)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[to]
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    exact = dict(load_base(str(base)).model.named_parameters())
    assert all(torch.equal(value, exact[name].to(dtype)) for name, value in model.named_parameters())
    assert result["bytes"]["after"] < 0.6 * result["bytes"]["before"]


def test_an_adapter_is_kept_beside(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    out = tmp_path / "out"
    result = quantize(base, out, adapter=adapter)
    assert "drift" not in result
    kept = formats.load(out / "adapter")
    assert kept.content_hash == formats.load(adapter).content_hash
    assert texts(out, "int8", {"a": out / "adapter"}) == texts(base, "int8", {"a": adapter})


def test_a_merged_adapter_is_summed_before_it_is_rounded(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    result = quantize(base, tmp_path / "out", adapter=adapter, merged=True)
    assert 0 < result["drift"] < 0.5
    assert fingerprint_folder(tmp_path / "out") != fingerprint_folder(base)
    running = start_engine(resolve_models(str(base), {"a": adapter}), precision="int8", merged=True)
    beside = generate(running, [Prompt((5, 9, 20, 7), "a")], Decoding(max_new_tokens=12))
    assert texts(tmp_path / "out", "int8") == [beside[0].token_ids]


def test_an_effect_that_is_rounded_away_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", size=1e-4)
    with pytest.raises(CheckError, match="loses the adapter: it is off by") as caught:
        quantize(base, tmp_path / "out", adapter=adapter, merged=True)
    assert caught.value.result["drift"] > 0.5
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"perplexity": {"before": 2.0, "after": 2.2}}, "is 10.0% higher"),
        ({"against_before": {"largest": float("nan")}}, "not finite"),
        ({"drift": 0.6}, "off by 60%"),
        ({}, None),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], what: str | None) -> None:
    passing = {"perplexity": {"before": 2.0, "after": 2.09}, "against_before": {"largest": 0.1}, "drift": 0.4}
    chosen = Quantization(None, None, "int8", tmp_path)
    if what is None:
        _check_losses({**passing, **change}, chosen)
        return
    with pytest.raises(CheckError, match=what):
        _check_losses({**passing, **change}, chosen)


def test_what_cannot_be(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no adapter to merge"):
        quantize(base, tmp_path / "out", merged=True)
    with pytest.raises(SettingsError, match="already exists"):
        quantize(base, base)
    quantize(base, tmp_path / "out")
    record = tmp_path / "out" / "tailora.json"
    record.write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="is not a JSON object; restore the file"):
        load_base(str(tmp_path / "out"))
