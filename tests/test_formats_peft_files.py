"""The files of an adapter folder: what is kept exactly, defaults, faults, and what is left on disk."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from adapters import dense, edit_config, small
from bases import save_adapter, save_base
from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.adapters.formats import peft
from tailora.adapters.formats.loralib import load as load_loralib
from tailora.core.errors import AdapterError, SettingsError
from tailora.inference.attached import load_adapted


@pytest.mark.parametrize("field", ["lora_dropout", "bias", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern"])
@pytest.mark.parametrize("how", ["null", "missing"])
def test_missing_and_null_fields_have_peft_s_defaults(tmp_path: Path, field: str, how: str) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    file = tmp_path / "adapter_config.json"
    settings_ = json.loads(file.read_text(encoding="utf-8")) | {field: None}
    if how == "missing":
        del settings_[field]
    file.write_text(json.dumps(settings_), encoding="utf-8")
    assert formats.load(tmp_path).layers["proj"].branches[0].scale == 2.0


def test_settings_of_ms_swift_s_training_are_accepted(tmp_path: Path) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    edit_config(tmp_path, lora_dtype="bfloat16", lorap_lr_ratio=16.0, lorap_emb_lr=1e-06)
    assert formats.load(tmp_path).layers["proj"].branches[0].scale == 2.0


@st.composite
def sliced_layers(draw: st.DrawFn) -> LayerAdapter:
    inputs = draw(st.integers(1, 5))
    out = draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    branches = []
    for _ in range(draw(st.integers(1, 3))):
        low = draw(st.integers(0, out - 1))
        rows = draw(st.none() | st.tuples(st.just(low), st.integers(low + 1, out)))
        rank = draw(st.integers(1, 4))
        scale = draw(st.floats(1e-3, 1e3))
        a = rng.normal(size=(rank, inputs)).astype(np.float32)
        b = rng.normal(size=(out if rows is None else rows[1] - rows[0], rank)).astype(np.float32)
        branches.append(LowRank(a, b, scale, rows))
    magnitude = draw(st.sampled_from([None, rng.normal(size=out).astype(np.float32)]))
    return LayerAdapter(draw(st.sampled_from(["linear", "gpt2_conv1d"])), tuple(branches), magnitude, out)


@given(layer=sliced_layers(), rslora=st.booleans(), name=st.sampled_from(["h.0.c_attn", "proj"]))
@settings(max_examples=60, deadline=None)
def test_any_slices_scales_and_ranks_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, layer: LayerAdapter, rslora: bool, name: str
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    adapter = Adapter(LoraConfig(targets=(name,), rslora=rslora), {name: layer}, base_fingerprint="f" * 64)
    peft.save(adapter, folder)
    again = peft.load(folder)
    assert again.content_hash == adapter.content_hash
    assert again.base_fingerprint == "f" * 64
    (folder / "tailora.json").unlink()
    plain = peft.load(folder).layers[name]
    np.testing.assert_allclose(dense(plain), dense(layer), rtol=1e-4, atol=1e-4 * np.abs(dense(layer)).max())


@pytest.mark.parametrize(
    ("base", "revision", "wanted"),
    [
        ("someone/model", "v1", "someone/model@v1"),
        ("someone/model", "main", "someone/model"),
        ("someone/model", None, "someone/model"),
        ("/models/mine", "v1", "/models/mine"),
        (None, "v1", None),
    ],
)
def test_the_revision_that_peft_names_is_the_base_s(
    tmp_path: Path, base: str | None, revision: str | None, wanted: str | None
) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    edit_config(tmp_path, base_model_name_or_path=base, revision=revision)
    assert peft.load(tmp_path).base_name == wanted


@pytest.mark.parametrize("form", ["peft", "loralib"])
def test_an_adapter_of_unknown_base_is_one_warning(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    save_base(tmp_path / "base")
    place = save_adapter(tmp_path / "adapter", str(tmp_path / "base"), base_fingerprint=None)
    (place / "tailora.json").unlink()
    if form == "loralib":
        adapter = formats.load(place)
        place = tmp_path / "lora.bin"
        formats.save(adapter, place, "loralib")
        loralib: dict[str, Any] = {"alpha": 8.0, "fan_in_fan_out": True, "enable_lora": {"c_attn": (True, True, True)}}
        caplog.clear()
        load_adapted(load_loralib(place, **loralib), str(tmp_path / "base"))
    else:
        caplog.clear()
        load_adapted(place, str(tmp_path / "base"))
    (record,) = caplog.records
    assert "only shapes are checked" in record.getMessage()


def test_meta_and_names_travel(tmp_path: Path) -> None:
    base = small()
    adapter = Adapter(
        base.config, base.layers, {}, "ab" * 32, "gpt2", {"prompt_form": "paper", "scores": {"bleu": 61.5}}
    )
    formats.save(adapter, tmp_path / "a")
    again = formats.load(tmp_path / "a")
    assert (again.base_fingerprint, again.base_name, again.meta) == ("ab" * 32, "gpt2", adapter.meta)
    assert formats.load(tmp_path / "a" / "adapter_model.safetensors").content_hash == adapter.content_hash


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"peft_type": "LORA"}', "\ud800"])
def test_config_that_is_no_config(tmp_path: Path, text: str) -> None:
    peft.save(small(), tmp_path)
    for name in ("adapter_config.json", "tailora.json"):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(AdapterError):
            peft.load(tmp_path)


def test_all_problems_of_the_tensors_in_one_message(tmp_path: Path) -> None:
    peft.save(small(), tmp_path)
    prefix = "base_model.model."
    save_file(
        {
            f"{prefix}x.lora_A.weight": torch.ones(4, 8),
            f"{prefix}y.lora_A.weight": torch.ones(4, 8),
            f"{prefix}y.lora_B.weight": torch.ones(8, 3),
            f"{prefix}z.lora_A.weight": torch.full((4, 8), math.nan),
            f"{prefix}z.lora_B.weight": torch.ones(8, 4),
            f"{prefix}score.modules_to_save.weight": torch.ones(2, 2),
            "../../etc/passwd": torch.ones(1),
        },
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(AdapterError) as error:
        peft.load(tmp_path)
    for part in ("x: has no lora_B", "y: lora_A [4, 8] and lora_B [8, 3]", "z.lora_A.weight contains", "modules_to"):
        assert part in str(error.value)
    assert "../../etc/passwd is not part" in str(error.value)


def test_changed_tensors_beside_an_old_record_are_refused(tmp_path: Path) -> None:
    peft.save(small(0), tmp_path / "a")
    peft.save(small(1), tmp_path / "b")
    record = (tmp_path / "a" / "tailora.json").read_bytes()
    (tmp_path / "b" / "tailora.json").write_bytes(record)
    with pytest.raises(AdapterError, match=r"not those that it was written with; restore the folder, or remove"):
        peft.load(tmp_path / "b")


def test_rows_outside_the_layer_in_the_record(tmp_path: Path) -> None:
    peft.save(small(), tmp_path)
    record = json.loads((tmp_path / "tailora.json").read_text(encoding="utf-8"))
    record["layers"]["proj"]["branches"][0]["rows"] = [0, 700]
    (tmp_path / "tailora.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(AdapterError, match="rows outside the layer's 6 outputs"):
        peft.load(tmp_path)


def test_what_cannot_be_written_is_said_and_leaves_what_was_there(tmp_path: Path) -> None:
    good = small()
    peft.save(good, tmp_path / "a")
    bad = copy.deepcopy(good)
    bad.layers["proj"].branches[0].a[0, 0] = math.inf
    with pytest.raises(AdapterError, match="proj contains values that are not finite"):
        peft.save(bad, tmp_path / "a")
    with pytest.raises(AdapterError, match="the adapter has no layers"):
        peft.save(Adapter(LoraConfig(), {}), tmp_path / "a")
    magnitude = np.ones(6, np.float32)
    some = {"proj": good.layers["proj"], "b": LayerAdapter("linear", good.layers["proj"].branches, magnitude)}
    with pytest.raises(AdapterError, match="DoRA on all layers or on none"):
        peft.save(Adapter(LoraConfig(), some), tmp_path / "a")
    assert peft.load(tmp_path / "a").content_hash == good.content_hash


def test_paths_that_hold_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no such adapter; name an adapter folder"):
        formats.load(tmp_path / "nothing")
    with pytest.raises(AdapterError, match=r"is not an adapter folder: it has no adapter_config\.json"):
        formats.load(tmp_path)
    (tmp_path / "text.txt").write_text("x", encoding="utf-8")
    with pytest.raises(AdapterError, match="is not in a known adapter format"):
        formats.load(tmp_path / "text.txt")
    with pytest.raises(SettingsError, match="'gguf' is not an adapter format; use peft or loralib"):
        formats.save(small(), tmp_path / "a", format="gguf")


def test_patterns_are_anchored_where_one_path_ends_another(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def layer(rank: int) -> LayerAdapter:
        a, b = rng.normal(size=(rank, 3)).astype(np.float32), rng.normal(size=(3, rank)).astype(np.float32)
        return LayerAdapter("linear", (LowRank(a, b, 1.0),), None, 3)

    layers = {"proj": layer(2), "inner.proj": layer(4), "inner.other": layer(4)}
    peft.save(Adapter(LoraConfig(targets=("proj",)), layers), tmp_path)
    (tmp_path / "tailora.json").unlink()
    again = peft.load(tmp_path)
    assert {name: each.branches[0].rank for name, each in again.layers.items()} == {
        "proj": 2,
        "inner.proj": 4,
        "inner.other": 4,
    }
    assert {each.branches[0].scale for each in again.layers.values()} == {1.0}
