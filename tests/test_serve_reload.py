"""Keys, compositions and limits are read again while requests run, by a route and by SIGHUP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from live_server import Slow, post, save_models, served, settings_for, wait_until
from tailora.commands.key import KeySettings, run
from tailora.core.flags import read_again
from tailora.serve.keys import read_keys
from tailora.serve.server import Server
from tailora.serve.settings import ServeSettings

LONG: dict[str, Any] = {"model": "one", "prompt": "abc", "max_tokens": 40, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


class Configured:
    """A server whose settings are in a file, and keys for it."""

    def __init__(self, models: Path, place: Path) -> None:
        self.keys, self.file = place / "keys.yaml", place / "serve.yaml"
        self.made = {"admin": self.key("admin", admin=True), "shop": self.key("shop")}
        self.values: dict[str, Any] = settings_for(models, api_keys=self.keys).model_dump(mode="json")
        self.write()
        self.server: Server

    def key(self, name: str, **more: Any) -> str:
        made: str = run(KeySettings(name=name, output=self.keys, **more))["key"]
        return made

    def write(self, **changes: Any) -> None:
        self.values |= changes
        self.file.write_text(yaml.safe_dump(self.values), encoding="utf-8")

    def head(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.made[name]}"}

    def reload(self, name: str = "admin") -> httpx.Response:
        return httpx.post(f"{self.server.address}/v1/reload", headers=self.head(name), timeout=60)

    def status(self, key: str, **body: Any) -> int:
        more = {"max_tokens": 1, "prompt": "x", **body}
        return post(self.server, "/v1/completions", {"model": "one", **more}, headers=self.head(key)).status_code


@pytest.fixture
def configured(models: Path, tmp_path: Path) -> Iterator[Configured]:
    made = Configured(models, tmp_path)
    token = read_again.set(lambda: ServeSettings.from_yaml(made.file))
    try:
        with served(ServeSettings.from_yaml(made.file), read_keys(made.keys, {})) as made.server:
            yield made
    finally:
        read_again.reset(token)


def test_new_keys_compositions_and_limits_are_used(configured: Configured) -> None:
    answers: list[httpx.Response] = []
    head = configured.head("shop")
    with Slow(configured.server, 0.03):
        thread = threading.Thread(
            target=lambda: answers.append(post(configured.server, "/v1/completions", LONG, headers=head))
        )
        thread.start()
        wait_until(lambda: configured.server.service.open_texts == 1)
        rows = yaml.safe_load(configured.keys.read_text("utf-8"))
        configured.keys.write_text(yaml.safe_dump([row for row in rows if row["name"] != "shop"]), encoding="utf-8")
        configured.made["new"] = configured.key("new", model=("both",), requests_per_minute=5)
        configured.write(compositions={"both": {"one": 0.5, "two": 0.5}}, queue=1, max_prompt=10, slots=3)
        assert configured.reload("shop").status_code == 403
        result = configured.reload()
        assert result.status_code == 200, result.text
        assert result.json() == {
            "keys": 2,
            "compositions": ["both"],
            "changed": ["compositions", "queue", "max_prompt"],
            "restart_needed": ["slots"],
        }
        assert configured.status("shop") == 401
        assert configured.status("admin") == 429  # the queue is full
        thread.join()
    assert answers[0].json()["usage"]["completion_tokens"] == 40  # of a key that is gone
    assert configured.status("new") == 404
    assert configured.status("new", model="both") == 200
    assert configured.status("admin", prompt="x" * 11) == 400
    configured.write(compositions={})
    assert configured.reload().json()["changed"] == ["compositions"]
    assert configured.status("admin", model="both") == 404


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": 0}, "serve.yaml"),
        ({"compositions": {"both": {"one": 1, "none": 1}}}, "there is no adapter 'none'"),
        ({"compositions": {"one": {"two": 1}}}, "a model has this name"),
        ({"api_keys": None}, "the new configuration has no API keys"),
        ({"api_keys": "nowhere.yaml"}, "there is no such file"),
        ({"frob": 1}, "no such setting"),
    ],
)
def test_a_wrong_configuration_changes_nothing(
    configured: Configured, changes: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    configured.made["late"] = configured.key("late")
    configured.write(**{"max_prompt": 3, **changes})
    answer = configured.reload()
    assert (answer.status_code, message in answer.text) == (400, True), answer.text
    assert configured.status("shop", prompt="abcdef") == 200
    assert configured.status("late") == 401
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == ["reload failed"]
    configured.keys.write_text("frob", encoding="utf-8")
    configured.write(**dict.fromkeys(changes, None))
    assert configured.reload().status_code == 400
    assert configured.status("shop") == 200


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_sighup_reads_the_configuration_again(models: Path, tmp_path: Path) -> None:
    file, log = tmp_path / "serve.yaml", tmp_path / "log"
    adapters = [f"{name}={models / name}" for name in ("one", "two")]
    values: dict[str, Any] = {"base": str(models / "base"), "adapter": adapters, "precision": "fp32", "port": 0}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    with log.open("w") as target:
        command = [sys.executable, "-m", "tailora", "serve", str(file), "--queue", "7"]
        process = subprocess.Popen(command, stderr=target, env=environment)

    def events() -> list[dict[str, Any]]:
        lines = log.read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and "reload" in line]

    try:
        wait_until(lambda: "press Ctrl-C to stop" in log.read_text("utf-8"), 120)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(events()) == 1)
        file.write_text(yaml.safe_dump({**values, "compositions": {"both": {"one": 1, "two": 1}}}), encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(events()) == 2)
        file.write_text(yaml.safe_dump({**values, "timeout": -1}), encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(events()) == 3)
        address = log.read_text("utf-8").partition(" at ")[2].partition(" ")[0]
        listed = httpx.get(f"{address}/v1/models", timeout=60).json()["data"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert [model["id"] for model in listed] == ["base", "one", "two", "both"]
    assert [(event["event"], event.get("changed")) for event in events()] == [
        ("reloaded", []),
        ("reloaded", ["compositions"]),
        ("reload failed", None),
    ]
    assert f"{file}:" in events()[2]["error"]
