"""The average over the last updates: it is their mean, and validation decides whether it is the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tailora.training.run import run
from tailora.training.settings import TrainSettings

CONSTANT: dict[str, Any] = {
    "base": "tiny",
    "batch_size": 4,
    "schedule": "constant",
    "warmup_steps": 0,
    "learning_rate": 5e-3,
    "precision": "fp32",
    "device": "cpu",
    "epochs": 2,
}
STATES = {
    "lora": "adapter/adapter_model.safetensors",
    "bitfit": "delta.safetensors",
    "adapter-l": "adapter/adapter.safetensors",
}


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "data.jsonl"
    rows = [{"name": f"Place {number}", "food": "soup", "text": f"Place {number} serves soup."} for number in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("method", STATES)
def test_without_validation_the_result_is_the_mean_of_the_last_states(method: str, source: str, tmp_path: Path) -> None:
    def learnt(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        run(TrainSettings(data=source, method=method, output=tmp_path / name, **{**CONSTANT, **changes}))
        values: dict[str, torch.Tensor] = load_file(tmp_path / name / STATES[method])
        return values

    states = [learnt(str(steps), max_steps=steps) for steps in (4, 5, 6)]
    average = learnt("average", max_steps=6, average=0.5)
    for name, values in average.items():
        torch.testing.assert_close(values, sum(state[name] for state in states) / 3, rtol=1e-5, atol=1e-7)
    result = json.loads((tmp_path / "average" / "run.json").read_text(encoding="utf-8"))
    assert result["averaged"] == 3


@pytest.mark.parametrize(("rate", "is_better"), [(1e-2, True), (3e-4, False)], ids=["noisy", "too short"])
def test_validation_decides_whether_the_average_is_the_result(rate: float, is_better: bool, tmp_path: Path) -> None:
    settings = {**CONSTANT, "learning_rate": rate, "limit": 12, "valid_limit": 6, "epochs": 3, "average": 0.5}
    result = run(TrainSettings(data="restaurants", output=tmp_path / "run", **settings))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    averaged = [line for line in lines if "averaged" in line]
    assert [line["averaged"] for line in averaged] == [round(0.5 * result["steps"])]
    assert (averaged[0]["validation_loss"] == min(losses)) is is_better
    assert result["averaged"] == (averaged[0]["averaged"] if is_better else 0)
    assert result["validation_loss"]["after"] == min(losses)


def test_without_the_setting_there_is_no_average(tmp_path: Path) -> None:
    result = run(TrainSettings(data="restaurants", output=tmp_path / "run", **CONSTANT | {"limit": 8, "max_steps": 2}))
    assert result["averaged"] == 0
    assert "averaged" not in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")
