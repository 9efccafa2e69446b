"""Several adapters with weights on one HTTP request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

import tailora
from live_server import post, save_models, served, settings_for
from tailora.commands.key import KeySettings
from tailora.commands.key import run as make_key
from tailora.serve.keys import read_keys
from tailora.serve.server import Server

META = {"prompt_form": "paper", "linearization": "paper", "prompt_source": "facts", "end_token_id": 0}
FACTS = {"name": "Blue", "food": "y"}
WEIGHTS = {"one": 0.75, "two": -0.5}
ADAPTERS = [{"name": name, "weight": weight} for name, weight in WEIGHTS.items()]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"), meta=META)


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models)) as made:
        yield made


@pytest.fixture(scope="module")
def merged(models: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the base with the weighted sum merged into it."""
    folder = tmp_path_factory.mktemp("merged") / "model"
    places = [models / name for name in WEIGHTS]
    tailora.merge(places, folder, base=str(models / "base"), weights=list(WEIGHTS.values()), check=False)
    with tailora.load(str(folder), precision="fp32") as model:
        return model.generate(FACTS, max_new_tokens=12)


def record(server: Server, **body: Any) -> str:
    answer = post(server, "/v1/records", {"facts": FACTS, "max_tokens": 12, **body})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["data"][0]["text"]
    return text


@pytest.mark.parametrize("name", ["base", "one"])
def test_a_mixture_is_the_weighted_sum(server: Server, merged: str, name: str) -> None:
    assert record(server, model=name, adapters=ADAPTERS) == merged
    assert record(server, model=name, adapters=ADAPTERS[::-1]) == merged
    assert record(server, model="one") != merged
    assert record(server, model="one", adapters=[{"name": "one"}]) == record(server, model="one")


def test_openai_s_routes_mix_too(server: Server, merged: str) -> None:
    client = OpenAI(base_url=f"{server.address}/v1", api_key="none")
    prompt = "name : Blue | food : y"
    more: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "extra_body": {"adapters": ADAPTERS}}
    completion = client.completions.create(model="base", prompt=prompt, **more)
    assert completion.choices[0].text.strip() == merged
    chat = client.chat.completions.create(model="base", messages=[{"role": "user", "content": prompt}], **more)
    assert chat.choices[0].message.content == merged
    streamed = client.completions.create(model="base", prompt=prompt, stream=True, **more)
    assert "".join(chunk.choices[0].text for chunk in streamed).strip() == merged
    alone = client.completions.create(model="one", prompt=prompt, max_tokens=12, temperature=0)
    assert alone.system_fingerprint != completion.system_fingerprint


@pytest.mark.parametrize(
    ("body", "status", "message", "param"),
    [
        ({"adapters": [{"name": "third"}]}, 404, "'third' does not exist", "adapters[0].name"),
        ({"adapters": [{"name": "one"}, {"name": "third"}]}, 404, "'third' does not exist", "adapters[1].name"),
        ({"model": "third", "adapters": [{"name": "one"}]}, 404, "'third' does not exist", "model"),
        ({"adapters": [{"name": "one"}, {"name": "one", "weight": 2}]}, 400, "an adapter is named twice", "adapters"),
        ({"adapters": [{"name": "base"}]}, 400, "base is not an adapter that can be mixed", "adapters"),
        ({"adapters": []}, 400, "adapters", "adapters"),
        ({"adapters": [{"name": "one", "weight": 1000}]}, 400, "weight", "adapters[0].weight"),
        ({"adapters": [{"name": "one", "wieght": 1}]}, 400, "wieght", "adapters[0].wieght"),
        (
            {"model": "two", "adapters": [{"name": "one"}]},
            400,
            "model must be the base, or one of the adapters",
            "model",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    server: Server, body: dict[str, Any], status: int, message: str, param: str
) -> None:
    answer = post(server, "/v1/records", {"model": "base", "facts": FACTS, **body})
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == param


def test_adapters_of_different_prompts_are_refused(models: Path, tmp_path: Path) -> None:
    other = save_models(tmp_path, meta={**META, "linearization": "plain"})
    adapters = (f"one={models / 'one'}", f"other={other / 'two'}")
    with served(settings_for(models, adapter=adapters)) as server:
        both = [{"name": "one"}, {"name": "other"}]
        answer = post(server, "/v1/records", {"model": "base", "facts": FACTS, "adapters": both})
    assert answer.status_code == 400
    assert "one and other were trained on different prompts" in answer.json()["error"]["message"]


def test_a_key_needs_access_to_every_adapter(models: Path, tmp_path: Path) -> None:
    made = make_key(KeySettings(name="shop", output=tmp_path / "keys.yaml", model=("one",)))
    head = {"Authorization": f"Bearer {made['key']}"}
    with served(settings_for(models), read_keys(tmp_path / "keys.yaml", {})) as server:
        for adapters, status in (([{"name": "one", "weight": 0.5}], 200), (ADAPTERS, 404)):
            body = {"model": "one", "facts": FACTS, "adapters": adapters, "max_tokens": 2}
            answer = httpx.post(f"{server.address}/v1/records", json=body, headers=head, timeout=60)
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize("weight", [0.5, -1.0, 0.0])
def test_a_scale_is_the_weight_of_one_adapter(server: Server, weight: float) -> None:
    scaled = record(server, model="one", scale=weight)
    assert scaled == record(server, model="one", adapters=[{"name": "one", "weight": weight}])
    client = OpenAI(base_url=f"{server.address}/v1", api_key="none")
    more: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "extra_body": {"scale": weight}}
    completion = client.completions.create(model="one", prompt="name : Blue | food : y", **more)
    assert completion.choices[0].text.strip() == scaled
    question: Any = [{"role": "user", "content": "name : Blue | food : y"}]
    assert client.chat.completions.create(model="one", messages=question, **more).choices[0].message.content == scaled


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "base", "scale": 0.5}, "scale: base is not an adapter whose effect can be scaled"),
        ({"model": "one", "scale": 101}, "scale: must be at most 100"),
        ({"model": "one", "scale": 1, "adapters": ADAPTERS}, "scale has no meaning with adapters"),
    ],
)
def test_what_cannot_be_scaled_is_refused(server: Server, body: dict[str, Any], message: str) -> None:
    answer = post(server, "/v1/records", {"facts": FACTS, **body})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
