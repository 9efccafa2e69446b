"""The verb: what an adapter changes, what a merge keeps, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bases import META, save_base, save_tokenizer
from networks import network
from tailora import cli
from tailora.adapters import formats
from tailora.adapters.config import LoraConfig
from tailora.commands.merge import MergeSettings
from tailora.commands.merge import run as merge
from tailora.commands.quantize import QuantizeSettings
from tailora.commands.quantize import run as quantize
from tailora.commands.verify import VerifySettings, run
from tailora.core.errors import AdapterError, CheckError, DataError, ModelError, SettingsError
from tailora.inference.probes import Reading, probes_of, reading_of
from tailora.inference.verification import _judge
from tailora.lora import inject
from tailora.models.load import load_base, quiet_transformers
from tailora.training.run import run as train
from tailora.training.settings import TrainSettings


def save_adapter(folder: Path, base: str, std: float = 0.2, **changes: Any) -> Path:
    loaded = load_base(base)
    inject.attach(loaded.model, LoraConfig(rank=4, alpha=8, targets=("attention", "mlp")))
    torch.manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=std)
    made = inject.extract(loaded.model)
    values = {"base_fingerprint": loaded.fingerprint, "base_name": loaded.name, **changes}
    formats.save(dataclasses.replace(made, **values), folder)
    return folder


@pytest.fixture(params=["gpt2", "llama"])
def base(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    save_base(tmp_path / "base", request.param)
    return str(tmp_path / "base")


def verify(**values: Any) -> dict[str, Any]:
    return run(VerifySettings(new_tokens=8, **values))


def test_an_adapter_changes_its_base(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = verify(adapter=save_adapter(tmp_path / "adapter", base))
    assert result["against_base"]["mean"] > 0.01
    assert result["against_base"]["same_token"] < 1
    assert "drift" not in result
    assert "compared with the base: logits differ by" in capsys.readouterr().err


def test_a_base_whose_configuration_has_no_limit_of_length(tmp_path: Path) -> None:
    place = tmp_path / "base"
    model = network("bloom", vocab_size=save_tokenizer(place))
    with quiet_transformers():
        model.save_pretrained(place)
    adapter = save_adapter(tmp_path / "adapter", str(place))
    merge(MergeSettings(adapter=adapter, output=tmp_path / "merged"))
    assert verify(model=str(tmp_path / "merged"))["drift"] < 1e-4


def test_a_merge_keeps_what_its_adapter_does_and_says_so_beside_it(base: str, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base)
    merge(MergeSettings(adapter=adapter, output=tmp_path / "merged"))
    receipt = json.loads((tmp_path / "merged" / "verify.json").read_text(encoding="utf-8"))
    assert receipt["drift"] < 1e-4
    assert receipt["against_adapter"]["same_token"] == 1
    again = verify(model=str(tmp_path / "merged"))
    assert again["adapter"] == str(adapter), "the folder tells its adapter and base"
    assert again["drift"] == receipt["drift"]
    assert again["against_adapter"]["equal_texts"] == again["against_adapter"]["texts"]


def test_the_adapter_is_found_from_any_working_directory(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work" / "runs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    save_adapter(Path("runs/one/adapter"), base)
    merge(MergeSettings(adapter=Path("runs/one"), output=Path("runs/merged")))
    here = verify(model="runs/merged")
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = verify(model=str(tmp_path / "work" / "runs" / "merged"))
    assert there["drift"] == here["drift"]
    (tmp_path / "work").rename(tmp_path / "moved")
    moved = verify(model=str(tmp_path / "moved" / "runs" / "merged"))
    assert moved["drift"] == here["drift"]
    assert moved["adapter"] == str(tmp_path / "moved" / "runs" / "merged" / ".." / "one")


@pytest.mark.parametrize("how", ["merge", "quantize"])
def test_an_adapter_that_is_gone_or_another_is_an_error(how: str, tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    base, adapter, model = str(tmp_path / "base"), tmp_path / "adapter", tmp_path / "model"
    save_adapter(adapter, base)
    if how == "merge":
        merge(MergeSettings(adapter=adapter, output=model))
    else:
        quantize(QuantizeSettings(adapter=adapter, merged=True, to="fp16", output=model, new_tokens=8, tolerance=1))
    drift = verify(model=str(model))["drift"]
    adapter.rename(tmp_path / "renamed")
    with pytest.raises(SettingsError, match=f"{model}: the adapter {adapter} does not exist; name it with --adapter"):
        verify(model=str(model))
    assert cli.main(["verify", "--model", str(model)]) == 2
    assert verify(model=str(model), adapter=tmp_path / "renamed")["drift"] == drift
    assert "drift" not in verify(model=str(model), base_only=True)
    save_adapter(adapter, base, std=0.3)
    with pytest.raises(SettingsError, match="is not the one that was merged"):
        verify(model=str(model))
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(SettingsError, match="cannot be read"):
        verify(model=str(model))


def test_two_adapters_are_added_up(base: str, tmp_path: Path) -> None:
    places = (save_adapter(tmp_path / "one", base), save_adapter(tmp_path / "two", base, std=0.3))
    merge(MergeSettings(adapter=places, weights=(0.5, 0.25), output=tmp_path / "both"))
    assert json.loads((tmp_path / "both" / "verify.json").read_text(encoding="utf-8"))["drift"] < 1e-4
    assert verify(model=str(tmp_path / "both"))["drift"] < 1e-4, "held against the sum of the two"
    told = json.loads((tmp_path / "both" / "tailora.json").read_text(encoding="utf-8"))["merged"]
    assert [each["weight"] for each in told["adapters"]] == [0.5, 0.25]
    found = [formats.load(place) for place in places]
    wanted = load_base(base).model.state_dict()
    for name, layer in found[0].layers.items():
        change: Any = sum(
            weight * each.layers[name].branches[0].scale * (branch.b @ branch.a)
            for weight, each in zip((0.5, 0.25), found, strict=True)
            for branch in each.layers[name].branches
        )
        wanted[f"{name}.weight"] += torch.tensor(change.T if layer.kind == "gpt2_conv1d" else change)
    for name, values in load_base(str(tmp_path / "both")).model.state_dict().items():
        torch.testing.assert_close(values, wanted[name], rtol=1e-4, atol=1e-5)


def test_a_sum_cut_to_a_rank(base: str, tmp_path: Path) -> None:
    places = (save_adapter(tmp_path / "one", base), save_adapter(tmp_path / "two", base, std=0.3))
    merge(MergeSettings(adapter=places, svd=1, output=tmp_path / "cut"))
    assert verify(model=str(tmp_path / "cut"))["drift"] < 1e-4
    merge(MergeSettings(adapter=places, svd=64, output=tmp_path / "whole"))
    merge(MergeSettings(adapter=places, output=tmp_path / "exact"))
    exact, whole, cut = (dict(load_base(str(tmp_path / n)).model.named_parameters()) for n in ("exact", "whole", "cut"))
    before = dict(load_base(base).model.named_parameters())
    for name in formats.load(places[0]).layers:
        weight = f"{name}.weight"
        torch.testing.assert_close(whole[weight], exact[weight], rtol=1e-4, atol=1e-5)
        assert torch.linalg.matrix_rank(cut[weight] - before[weight], rtol=1e-3) == 1


def test_a_run_without_an_adapter_becomes_a_model(base: str, tmp_path: Path) -> None:
    rows = [{"facts": {"name": name}, "text": f"{name} is red."} for name in ("Ada", "Bob")]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trained = train(TrainSettings(data=str(data), base=base, method="top2", epochs=1, output=tmp_path / "run"))
    merge(MergeSettings(adapter=tmp_path / "run", output=tmp_path / "model"))
    learnt = load_file(tmp_path / "run" / "delta.safetensors")
    before, after = (dict(load_base(place).model.named_parameters()) for place in (base, str(tmp_path / "model")))
    assert trained["saved"] == "delta.safetensors"
    for name, value in after.items():
        assert torch.equal(value, learnt.get(name, before[name]))
    assert any(not torch.equal(after[name], before[name]) for name in learnt)
    with pytest.raises(SettingsError, match="this run did not train an adapter"):
        merge(MergeSettings(adapter=tmp_path / "run", weights=(2.0,), output=tmp_path / "other"))
    save_base(tmp_path / "elsewhere", rows=300)
    with pytest.raises(ModelError, match="other weights"):
        merge(MergeSettings(adapter=tmp_path / "run", base=str(tmp_path / "elsewhere"), output=tmp_path / "other"))
    (tmp_path / "run" / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="is not a run directory that can be read"):
        merge(MergeSettings(adapter=tmp_path / "run", output=tmp_path / "other"))


def test_weights_that_round_the_update_away_are_not_written(tmp_path: Path) -> None:
    save_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = save_adapter(tmp_path / "adapter", str(tmp_path / "base"), std=0.004)
    with pytest.raises(CheckError, match="of the adapter's effect"):
        merge(MergeSettings(adapter=adapter, output=tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()
    merge(MergeSettings(adapter=adapter, output=tmp_path / "merged", check=False))


def test_another_model_has_drifted(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = save_adapter(tmp_path / "adapter", base)
    other = save_adapter(tmp_path / "other", base, std=0.3)
    merge(MergeSettings(adapter=other, output=tmp_path / "merged"))
    arguments = ["verify", "--adapter", str(adapter), "--model", str(tmp_path / "merged"), "--json"]
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["drift"] > 0.05
    assert told["failed"] in err


def test_a_drift_that_is_not_a_number_is_an_error() -> None:
    reading = Reading(torch.ones(2, 3), None, ())
    change = {"largest": 1.0, "mean": 1.0}
    for drift in (float("nan"), float("inf"), 0.5):
        result = {"model": "m", "adapter": "a", "against_base": change, "drift": drift}
        with pytest.raises(CheckError, match="deviates by"):
            _judge(result, reading, tolerance=0.1)


def test_a_loss_beyond_all_perplexities_is_reported(base: str) -> None:
    loaded = load_base(base)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(30)
    reading = reading_of(loaded, probes_of([], loaded, META), 1)
    assert reading.perplexity is not None
    assert 1e300 < reading.perplexity < float("inf")


def test_what_changes_nothing_is_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="changes nothing"):
        verify(model=base, base=base)
    zero = save_adapter(tmp_path / "zero", base, std=0.0)
    with pytest.raises(AdapterError, match="changes nothing"):
        verify(adapter=zero)
    faint = save_adapter(tmp_path / "faint", base, std=1e-6)
    with pytest.raises(CheckError, match="changes nothing"):
        verify(adapter=faint)


def test_records_of_ones_own(base: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"facts": {"name": "X"}, "text": "X is there ."}\n{"facts": {"name": "Y"}}\n', encoding="utf-8")
    result = verify(adapter=save_adapter(tmp_path / "adapter", base), input=str(path))
    assert result["probes"] == 1
    assert result["perplexity"]["base"] != result["perplexity"]["adapter"]
    path.write_text('{"facts": {"name": "Y"}}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no record has a text"):
        verify(adapter=tmp_path / "adapter", input=str(path))


def test_records_are_read_with_the_columns_of_training(base: str, tmp_path: Path) -> None:
    columns = {"facts": ["name"], "text": "ref"}
    meta = {**META, "reading": {"format": None, "columns": columns, "language": None}}
    adapter = save_adapter(tmp_path / "adapter", base, meta=meta)
    plain, table = tmp_path / "plain.jsonl", tmp_path / "table.csv"
    plain.write_text('{"facts": {"name": "X"}, "text": "X is there ."}\n', encoding="utf-8")
    table.write_text("name,note,text,ref\nX,new,nothing,X is there .\n", encoding="utf-8")
    expected = verify(adapter=adapter, input=str(plain))
    found = verify(adapter=adapter, input=str(table))
    assert found["perplexity"] == expected["perplexity"]
    assert verify(adapter=adapter, input=str(table), columns={"text": "text"})["perplexity"] != expected["perplexity"]


def test_nothing_to_verify(base: str) -> None:
    with pytest.raises(SettingsError, match="nothing to verify"):
        verify(base=base)
    with pytest.raises(SettingsError, match="no base model named"):
        verify()
