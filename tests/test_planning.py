"""`tailora plan`, and what a run announces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bases import save_base
from tailora import cli
from tailora.core.errors import CheckError
from tailora.training import planning
from tailora.training.planning import plan
from tailora.training.run import run
from tailora.training.settings import TrainSettings

ROWS = [
    {"facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
    for name in ("Ada", "Bob", "Cy")
    for colour in ("red", "blue", "green", "grey")
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("recipe")
    save_base(folder / "base", "gpt2")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return {"base": str(folder / "base"), "data": str(data), "valid": str(data), "batch_size": 4, "epochs": 1}


@pytest.mark.parametrize("method", ["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_plan_is_what_the_run_announces(recipe: dict[str, Any], method: str, precision: str, tmp_path: Path) -> None:
    settings = TrainSettings(**recipe, method=method, precision=precision, output=tmp_path / "run")
    planned = plan(settings)
    announced = run(settings)["account"]
    assert announced.pop("base_fingerprint")
    assert planned.pop("fits") is True
    for content in (planned, announced):
        estimate = content["estimate"]
        assert estimate["peak_memory_bytes"] == estimate["memory"]["peak"] > 2**27
        assert estimate["seconds"] > 0
        for name in ("process", "loading", "updating", "peak"):  # they contain the size of this process
            estimate["memory"].pop(name)
        content["estimate"] = estimate["memory"]
    assert planned == announced


def test_what_does_not_fit_is_a_failed_check(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "memory_limit", lambda device: 2**27)
    with pytest.raises(CheckError, match=r"needs .* of memory, and 128 MiB are available") as caught:
        plan(TrainSettings(**recipe))
    assert caught.value.result["fits"] is False
    assert caught.value.result["estimate"]["memory"]["learning"] > 0


def test_command_prints_parts_and_json(recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    flags = [part for name, value in recipe.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert cli.main(["plan", *flags, "--method", "full", "--json"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert result["fits"] is True
    assert result["steps"] == 3
    for text in ("weights that learn", "state of AdamW", "Python, libraries and data", "available", "precision: "):
        assert text in output.err
    assert not Path("runs").exists()
