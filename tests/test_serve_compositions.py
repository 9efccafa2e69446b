"""Adapters with weights that the server's configuration names, and that clients use as one model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI

from live_server import Slow, get, post, save_models, served, settings_for, wait_until
from tailora.commands.key import KeySettings
from tailora.commands.key import run as make_key
from tailora.core.errors import SettingsError
from tailora.core.flags import from_arguments, parser_for
from tailora.serve.keys import read_keys
from tailora.serve.server import Server
from tailora.serve.settings import ServeSettings

META = {"prompt_form": "paper", "linearization": "paper", "prompt_source": "facts", "end_token_id": 0}
WEIGHTS = {"one": 0.75, "two": -0.5}
ADAPTERS: list[dict[str, Any]] = [{"name": name, "weight": weight} for name, weight in WEIGHTS.items()]
FACTS = {"name": "Blue", "food": "y"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"), meta=META)


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models, compositions={"both": WEIGHTS, "half": {"one": 0.5}})) as made:
        yield made


def record(server: Server, **body: Any) -> str:
    answer = post(server, "/v1/records", {"facts": FACTS, "max_tokens": 12, **body})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["data"][0]["text"]
    return text


def test_a_composition_is_a_model(server: Server) -> None:
    client = OpenAI(base_url=f"{server.address}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["base", "one", "two", "both", "half"]
    described = client.models.retrieve("both").model_dump()
    assert (described["parent"], described["adapters"]) == ("base", ADAPTERS)
    mixed = record(server, model="base", adapters=ADAPTERS)
    assert record(server, model="both") == mixed
    assert record(server, model="half") == record(server, model="one", scale=0.5)
    assert record(server, model="both", scale=-2) == record(
        server, model="base", adapters=[{**each, "weight": -2 * each["weight"]} for each in ADAPTERS]
    )
    more: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
    completion = client.completions.create(model="both", prompt="name : Blue | food : y", **more)
    assert completion.choices[0].text.strip() == mixed
    assert completion.model == "both"
    question: Any = [{"role": "user", "content": "name : Blue | food : y"}]
    assert client.chat.completions.create(model="both", messages=question, **more).choices[0].message.content == mixed


def test_a_composition_is_not_mixed_again(server: Server) -> None:
    answer = post(server, "/v1/records", {"model": "base", "facts": FACTS, "adapters": [{"name": "both"}]})
    assert answer.status_code == 400
    assert "both is not an adapter that can be mixed" in answer.json()["error"]["message"]


def test_a_key_needs_the_composition_s_own_name(models: Path, tmp_path: Path) -> None:
    keys = {
        name: {"Authorization": f"Bearer {make_key(KeySettings(name=name, output=tmp_path / 'k', model=own))['key']}"}
        for name, own in {"composition": ("both",), "parts": ("one", "two")}.items()
    }
    with served(settings_for(models, compositions={"both": WEIGHTS}), read_keys(tmp_path / "k", {})) as server:
        seen = {name: get(server, "/v1/models", headers=head).json()["data"] for name, head in keys.items()}
        assert [model["id"] for model in seen["composition"]] == ["both"]
        assert [model["id"] for model in seen["parts"]] == ["one", "two"]
        body: dict[str, Any] = {"facts": FACTS, "max_tokens": 2}
        status = {
            (name, model): post(server, "/v1/records", {"model": model, **body}, headers=head).status_code
            for name, head in keys.items()
            for model in ("both", "one")
        }
    assert status == {
        ("composition", "both"): 200,
        ("composition", "one"): 404,
        ("parts", "both"): 404,
        ("parts", "one"): 200,
    }


def test_a_composition_follows_its_adapters(models: Path, tmp_path: Path) -> None:
    """It is there while its adapters are, has their newest versions, and a request in progress keeps its own."""
    folder = tmp_path / "adapters"
    shutil.copytree(models / "later", folder)
    other = save_models(tmp_path / "other", meta={**META, "linearization": "plain"})
    shutil.copytree(other / "two", folder / "plain")
    settings = settings_for(models, adapter_folder=folder, compositions={"both": {"one": 1, "new": 0.5}})
    with served(settings) as server:
        client = OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)

        def load(path: str, **more: Any) -> httpx.Response:
            return post(server, "/v1/load_lora_adapter", {"lora_name": "new", "lora_path": path, **more})

        assert "both" not in [model.id for model in client.models.list()]
        with pytest.raises(NotFoundError, match="the composition 'both' needs the adapter 'new', which is not loaded"):
            client.completions.create(model="both", prompt="name : x")
        assert load("three").status_code == 200
        assert "both" in [model.id for model in client.models.list()]
        first = record(server, model="both")
        answers: list[str] = []
        with Slow(server, 0.05):
            streamed = client.completions.create(
                model="both", prompt="name : Blue | food : y", max_tokens=12, temperature=0, stream=True
            )
            answers.append(next(iter(streamed)).choices[0].text)
            assert load("four", load_inplace=True).status_code == 200
            answers += [chunk.choices[0].text for chunk in streamed]
        assert "".join(answers).strip() == first
        assert record(server, model="both") != first
        slots = server.service.running.engine.backend.adapter_slots
        wait_until(lambda: "new#1" not in slots)

        assert load("plain", load_inplace=True).status_code == 200
        assert "both" not in [model.id for model in client.models.list()]
        answer = post(server, "/v1/records", {"model": "both", "facts": FACTS})
        assert (answer.status_code, "different prompts" in answer.text) == (400, True)

        assert post(server, "/v1/unload_lora_adapter", {"lora_name": "new"}).status_code == 200
        assert post(server, "/v1/records", {"model": "both", "facts": FACTS}).status_code == 404
        taken = post(server, "/v1/load_lora_adapter", {"lora_name": "both", "lora_path": "three"})
        assert (taken.status_code, "a composition 'both' already exists" in taken.text) == (400, True)
        assert post(server, "/v1/unload_lora_adapter", {"lora_name": "both"}).status_code == 404


@pytest.mark.parametrize(
    ("compositions", "message"),
    [
        ({"one": WEIGHTS}, "compositions.one: a model has this name; give the composition another name"),
        (
            {"x": {"one": 1, "none": 1, "two": 1, "four": 1, "five": 1, "six": 1}},
            "compositions.x: there is no adapter 'none'; name the adapter with --adapter",
        ),
        ({"x": {"one": 1, "none": 1}}, "compositions.x: there is no adapter 'none'; name the adapter with --adapter"),
        ({"x": {"base": 1}}, "compositions.x: base is not an adapter that can be mixed"),
    ],
)
def test_a_composition_that_cannot_be_is_reported_at_the_start(models: Path, compositions: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message), served(settings_for(models, compositions=compositions)):
        pass


def test_yaml_and_flags_name_the_same_compositions(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("base: tiny\ncompositions: {mix: {e2e: 0.7, formal: 0.3}, half: {e2e: 0.5}}\n", encoding="utf-8")
    parser = parser_for(ServeSettings, prog="tailora serve", description="")
    flags = ["--base", "tiny", "--compositions", "mix=e2e:0.7+formal:0.3", "--compositions", "half=e2e:0.5"]
    settings, _ = from_arguments(ServeSettings, parser, flags)
    assert settings == ServeSettings.from_yaml(file)
    assert settings.compositions == {"mix": (("e2e", 0.7), ("formal", 0.3)), "half": (("e2e", 0.5),)}
    file.write_text(settings.to_yaml(), encoding="utf-8")
    assert ServeSettings.from_yaml(file) == settings


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"mix": {"e2e": 1000}}, "compositions: mix: the weight of 'e2e' must be a number from -100 to 100"),
        ({"mix": {}}, "compositions: mix: names no adapter"),
        ({"mix": 3}, "compositions: mix: names no adapters; write {adapter: weight}"),
        ({"": {"e2e": 1}}, "compositions: '' is not a valid name"),
        ("mix", "compositions: 'mix' has no adapters; write NAME=ADAPTER:WEIGHT"),
        (["mix=a:1", "mix=b:1"], "compositions: two compositions have one name"),
        (3, "compositions: is not a mapping"),
    ],
)
def test_a_composition_that_cannot_be_read_is_refused(value: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ServeSettings(base="tiny", compositions=value)
