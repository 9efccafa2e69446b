"""Adapters at run time: loaded from one folder alone, replaced and unloaded while requests go on."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from bases import save_adapter
from live_server import get, is_idle, post, save_models, served, settings_for, wait_until
from tailora.core.errors import AdapterError, SettingsError
from tailora.serve.daemon_threads import in_daemon_thread
from tailora.serve.server import Server

LONG = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models, adapter_folder=models / "later", slots=2)) as made:
        yield made
        wait_until(lambda: is_idle(made))


def load(server: Server, name: str, path: str, **more: Any) -> httpx.Response:
    return post(server, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **more})


def unload(server: Server, name: str) -> httpx.Response:
    return post(server, "/v1/unload_lora_adapter", {"lora_name": name})


def text(server: Server, model: str, **more: Any) -> str:
    answer = post(server, "/v1/completions", {"model": model, "prompt": "abc", **LONG, **more})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def names(server: Server) -> list[str]:
    return [model["id"] for model in get(server, "/v1/models").json()["data"]]


def known_to_the_engine(server: Server) -> list[str]:
    found: list[str] = server.service.worker.call(lambda engine: engine.backend.adapter_slots.names)
    return found


def test_an_adapter_comes_and_goes(server: Server, models: Path) -> None:
    assert load(server, "three", "three").text == "Success: LoRA adapter 'three' added successfully."
    assert names(server) == ["base", "one", "two", "three"]
    assert len({text(server, name) for name in names(server)}) == 4
    assert load(server, "three", "four").status_code == 400
    assert load(server, "base", "four").status_code == 400
    before = text(server, "three")
    assert load(server, "three", str(models / "later" / "four"), load_inplace=True).status_code == 200
    assert text(server, "three") != before
    assert unload(server, "three").status_code == 200
    assert unload(server, "three").status_code == 404
    assert unload(server, "base").status_code == 404
    assert post(server, "/v1/completions", {"model": "three", "prompt": "x"}).status_code == 404
    wait_until(lambda: known_to_the_engine(server) == ["one", "two"])


def test_requests_keep_the_version_they_began_with(server: Server) -> None:
    load(server, "mine", "three")
    third = text(server, "mine")
    body = {"model": "mine", "prompt": "abc", "stream": True, **LONG}
    with httpx.stream("POST", f"{server.address}/v1/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        load(server, "mine", "four", load_inplace=True)
        fourth = text(server, "mine")
        assert unload(server, "mine").status_code == 200
        rest = list(lines)
    assert '"finish_reason": "length"' in "".join(rest)
    assert fourth != third
    wait_until(lambda: known_to_the_engine(server) == ["one", "two"])


def test_a_version_that_goes_before_the_request_is_queued_is_kept_too(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(server, "mine", "three")
    expected = text(server, "mine")
    service, admit = server.service, server.service._admit

    def unload_first(count: int) -> None:
        with pytest.raises(StopIteration, match="True"):  # nothing in it has to wait: it runs to its end
            service.registry.unload("mine").send(None)
        monkeypatch.undo()
        admit(count)

    monkeypatch.setattr(service, "_admit", unload_first)
    assert text(server, "mine") == expected
    assert unload(server, "mine").status_code == 404
    wait_until(lambda: known_to_the_engine(server) == ["one", "two"])


def test_nothing_outside_the_folder_is_read(server: Server, models: Path, tmp_path: Path) -> None:
    later = models / "later"
    outside = save_adapter(tmp_path / "outside", str(models / "base"))
    (later / "link").symlink_to(outside)
    shutil.copytree(later / "three", later / "linked")
    (later / "linked" / "adapter_model.safetensors").unlink()
    (later / "linked" / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    try:
        places = ("../one", str(models / "one"), str(outside), "link", "linked", "none", "/etc", "x" * 4000, "a\x00b")
        answers = [load(server, "new", place) for place in places]
        assert [answer.status_code for answer in answers] == [409] * len(places)
        assert all(answer.json()["error"]["param"] == "lora_path" for answer in answers)
        assert all("no adapter is there" in answer.json()["error"]["message"] for answer in answers)
    finally:
        (later / "link").unlink()
        shutil.rmtree(later / "linked")
    assert names(server) == ["base", "one", "two"]


def test_no_pickle_is_opened(server: Server, models: Path) -> None:
    pickled = models / "later" / "pickled"
    shutil.copytree(models / "later" / "three", pickled)
    (pickled / "adapter_model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, pickled / "adapter_model.bin")
    answer = load(server, "new", "pickled")
    assert answer.status_code == 409
    assert "adapter_model.safetensors is missing" in answer.json()["error"]["message"]
    shutil.rmtree(pickled)


def test_another_bases_adapter_is_refused(server: Server, models: Path) -> None:
    other = models / "later" / "other"
    save_adapter(other, str(models / "base"), base_fingerprint="0" * 64)
    answer = load(server, "new", "other")
    assert answer.status_code == 409
    assert "other weights" in answer.json()["error"]["message"]
    shutil.rmtree(other)


def test_without_a_folder_there_are_no_such_routes(models: Path) -> None:
    with served(settings_for(models)) as server:
        assert load(server, "three", "three").status_code == 404


def test_what_cannot_be_served_is_reported_at_the_start(models: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(AdapterError, match=r"adapter_config\.json is missing"),
        served(settings_for(models, adapter=(f"x={tmp_path}",))),
    ):
        pass
    with (
        pytest.raises(SettingsError, match="has the name of the base"),
        served(settings_for(models, adapter=(f"base={models / 'one'}",))),
    ):
        pass
    with pytest.raises(SettingsError, match="is not a folder"):
        settings_for(models, adapter_folder=tmp_path / "none")
    with pytest.raises(SettingsError, match="no adapter and no base model named"):
        settings_for(models, base=None, adapter=())


def test_the_end_of_a_server_waits_for_no_download() -> None:
    """The event loop ends while the work goes on; asyncio's own threads would be joined."""
    silent = threading.Event()

    async def shut_down() -> None:
        download = asyncio.ensure_future(in_daemon_thread(silent.wait))
        await asyncio.sleep(0.01)
        download.cancel()

    ended = threading.Thread(target=lambda: asyncio.run(shut_down()), daemon=True)
    ended.start()
    ended.join(60)
    try:
        assert not ended.is_alive()
    finally:
        silent.set()


def test_a_thread_returns_results_and_errors() -> None:
    async def results() -> list[object]:
        pending = [in_daemon_thread(lambda: 5), in_daemon_thread(lambda: int("x"))]
        return list(await asyncio.gather(*pending, return_exceptions=True))

    five, error = asyncio.run(results())
    assert five == 5
    assert isinstance(error, ValueError)
