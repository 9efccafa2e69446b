"""Named recipes: what they set, what overrides them, and what runs and documentation say about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tailora
from tailora.commands import settings_class
from tailora.commands.compare import CompareSettings
from tailora.core.errors import SettingsError
from tailora.core.flags import from_arguments, parser_for
from tailora.training.named_recipes import FOLDER, RECIPES, recipe_settings, recipe_table
from tailora.training.settings import TrainSettings

USERS = ("train", "tune", "compare", "plan", "learning-curve")


def test_every_recipe_has_a_file_of_valid_settings() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(RECIPES)
    for name in RECIPES:
        spelled_out = TrainSettings(data="restaurants", **recipe_settings(name))
        named = TrainSettings(data="restaurants", recipe=name)
        assert named.model_dump(exclude={"recipe"}) == spelled_out.model_dump(exclude={"recipe"})


def test_the_paper_s_recipe_has_the_published_settings() -> None:
    settings = TrainSettings(data="restaurants", recipe="lora-paper")
    config = settings.lora_config()
    assert (config.rank, config.alpha, config.dropout, config.targets) == (4, 32, 0.1, ("attention.qv",))
    assert (settings.peak_learning_rate, settings.weight_decay, settings.label_smoothing) == (2e-4, 0.01, 0.1)
    assert (settings.schedule, settings.warmup_steps, settings.epochs, settings.batch_size) == ("linear", 500, 5, 8)


def test_without_a_recipe_lora_adapts_all_linear_layers() -> None:
    settings = TrainSettings(data="restaurants")
    assert (settings.targets, settings.rank, settings.peak_learning_rate) == (("all-linear",), 8, 2e-3)


@pytest.mark.parametrize("command", USERS)
def test_flags_override_the_configuration_which_overrides_a_recipe(command: str, tmp_path: Path) -> None:
    cls = settings_class(command)
    config = tmp_path / "own.yaml"
    config.write_text("recipe: lora-paper\ndata: restaurants\nrank: 2\nepochs: 7\n", encoding="utf-8")
    ranges = ["--ranges", "seed=1|2"] if command == "tune" else []
    parser = parser_for(cls, prog=f"tailora {command}", description="")
    settings, _ = from_arguments(cls, parser, [str(config), "--epochs", "9", *ranges])
    chosen = settings.model_dump()
    assert (chosen["epochs"], chosen["rank"], chosen["alpha"], chosen["batch_size"]) == (9, 2, 32, 8)
    assert chosen["recipe"] == "lora-paper"


@pytest.mark.parametrize("command", USERS)
def test_the_help_shows_what_each_recipe_sets(command: str) -> None:
    text = parser_for(settings_class(command), prog="tailora x", description="").format_help()
    (row,) = (line.split() for line in text.splitlines() if line.split()[:1] == ["--learning-rate"] and "0.002" in line)
    assert row == ["--learning-rate", "0.002", "0.001", "0.0002"]


def test_the_documentation_shows_what_each_recipe_sets() -> None:
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    for row in recipe_table():
        assert list(row) in rows


def test_the_learning_rate_of_a_recipe_is_for_lora() -> None:
    full = TrainSettings(data="restaurants", recipe="fast", method="full")
    assert full.peak_learning_rate == TrainSettings(data="restaurants", method="full").peak_learning_rate
    assert full.label_smoothing == 0.1
    compared = CompareSettings(data="restaurants", recipe="lora-paper")
    assert compared.rates("lora")[1] == 2e-4
    assert compared.rates("full") == CompareSettings(data="restaurants").rates("full")


def test_copies_with_other_settings_start_from_the_recipe() -> None:
    settings = TrainSettings(data="restaurants", recipe="lora-paper", rank=2)
    stated = settings.model_dump(mode="json", exclude_unset=True)
    assert stated == {"data": "restaurants", "recipe": "lora-paper", "rank": 2}
    assert TrainSettings(**stated) == settings
    assert TrainSettings(**settings.model_dump(mode="json")) == settings


def test_an_unknown_recipe_is_refused_with_the_names() -> None:
    with pytest.raises(SettingsError, match=r"fast.*best.*lora-paper"):
        TrainSettings(data="restaurants", recipe="fastest")


def test_run_json_has_the_recipe_and_every_value(tmp_path: Path) -> None:
    run = tailora.train("restaurants", recipe="fast", max_steps=2, limit=8, valid_limit=4, output=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["settings"]
    assert (kept["recipe"], kept["label_smoothing"], kept["learning_rate"]) == ("fast", 0.1, 2e-3)
    assert (kept["max_steps"], run.result["steps"]) == (2, 2)
    assert set(TrainSettings.model_fields) == set(kept)
    assert run.result["learning_rate"] == 2e-3
