"""API keys: made, kept as hashes, asked for, and scoped to models."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from live_server import get, post, save_models, served, settings_for
from tailora.commands.key import KeySettings, run
from tailora.core.errors import DataError, SettingsError
from tailora.serve.keys import VARIABLE, KeyRing, add_key, read_keys
from tailora.serve.server import Server, _greeting


def make(path: Path, name: str, **more: Any) -> str:
    key: str = run(KeySettings(name=name, output=path, **more))["key"]
    return key


def test_a_key_is_kept_as_its_hash_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.yaml"
    shop, ops = make(path, "shop", model=("e2e",)), make(path, "ops", admin=True)
    assert capsys.readouterr().out == f"{shop}\n{ops}\n"
    assert shop not in path.read_text(encoding="utf-8")
    ring = read_keys(path, {})
    found = ring.find(shop)
    assert found is not None
    assert found.sha256 == hashlib.sha256(shop.encode()).hexdigest()
    assert (found.name, found.may_use("e2e"), found.may_use("other"), found.admin) == ("shop", True, False, False)
    other = ring.find(ops)
    assert other is not None
    assert other.may_use("anything")
    assert other.admin
    assert ring.find("") is ring.find(shop + "x") is None


def test_keys_of_the_environment_come_beside_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    make(path, "one")
    text = f"[{{name: two, sha256: '{'0' * 64}'}}]"
    assert len(read_keys(path, {VARIABLE: text})) == 2
    assert len(read_keys(None, {VARIABLE: text})) == 1
    assert len(read_keys(None, {})) == 0


def test_a_name_comes_once(tmp_path: Path) -> None:
    make(tmp_path / "keys.yaml", "shop")
    with pytest.raises(SettingsError, match="already has a key for 'shop'; remove its entry first"):
        make(tmp_path / "keys.yaml", "shop")


@pytest.mark.parametrize("text", ["", "- name: x\n  key: secret-one\n", "secret-one", "{", "- [1]", "[]"])
def test_what_is_no_list_of_hashes_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="tailora key") as error:
        read_keys(path, {})
    assert "secret" not in str(error.value)
    with pytest.raises(DataError, match="there is no such file; create it with"):
        read_keys(tmp_path / "none", {})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyRing, dict[str, str]]:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    made = {"all": make(path, "all"), "two": make(path, "two", model=("two",)), "ops": make(path, "ops", admin=True)}
    return read_keys(path, {}), made


@pytest.fixture(scope="module")
def server(models: Path, keys: tuple[KeyRing, dict[str, str]]) -> Iterator[Server]:
    with served(settings_for(models, adapter_folder=models / "later"), keys[0]) as made:
        yield made


def bearer(key: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {key}"}}


ASK = {"prompt": "abc", "max_tokens": 2}


def test_without_a_key_only_the_probes_and_the_page_answer(server: Server) -> None:
    for path in ("/health", "/ready"):
        assert get(server, path).status_code == 200
    for path in ("/v1/models", "/v1/status", "/metrics", "/openapi.json", "/v1/nowhere"):
        answer = get(server, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    for key in ("x", "x" * 5000, "ü"):
        headers = {"Authorization": f"Bearer {key}".encode("latin-1")}
        assert post(server, "/v1/completions", {"model": "one", **ASK}, headers=headers).status_code == 401


def test_a_key_reaches_its_models_alone(server: Server, keys: tuple[KeyRing, dict[str, str]]) -> None:
    _, made = keys
    status = {
        (name, model): post(server, "/v1/completions", {"model": model, **ASK}, **bearer(key)).status_code
        for name, key in made.items()
        for model in ("base", "one", "two")
    }
    assert {pair for pair, code in status.items() if code != 200} == {("two", "base"), ("two", "one")}
    assert status["two", "one"] == 404
    shown = get(server, "/v1/models", **bearer(made["two"])).json()["data"]
    assert [model["id"] for model in shown] == ["two"]
    recent = get(server, "/v1/status", **bearer(made["two"])).json()["recent"]
    assert {each["model"] for each in recent} == {"two"}


def test_only_an_admin_changes_what_is_served(server: Server, keys: tuple[KeyRing, dict[str, str]]) -> None:
    _, made = keys
    body = {"lora_name": "three", "lora_path": "three"}
    assert post(server, "/v1/load_lora_adapter", body, **bearer(made["all"])).status_code == 403
    assert post(server, "/v1/load_lora_adapter", body, **bearer(made["ops"])).status_code == 200
    assert post(server, "/v1/unload_lora_adapter", {"lora_name": "three"}, **bearer(made["two"])).status_code == 403


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda text: text.rstrip("\n"), id="no line end at the end"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(lambda text: "# ours\n\n" + text, id="comment"),
        pytest.param(lambda text: text + "...\n", id="end mark"),
        pytest.param(lambda text: "\ufeff" + text, id="byte-order mark"),
        pytest.param(lambda text: "".join(f"  {line}" for line in text.splitlines(keepends=True)), id="indented"),
        pytest.param(lambda text: json.dumps(yaml.safe_load(text)), id="JSON"),
    ],
)
def test_a_key_is_added_to_any_file_of_keys(tmp_path: Path, form: Any) -> None:
    file = tmp_path / "keys.yaml"
    first = run(KeySettings(name="first", model=("one",), output=file))["key"]
    text = form(file.read_text(encoding="utf-8"))
    file.write_bytes(text.encode())
    second = run(KeySettings(name="second", admin=True, output=file))["key"]
    ring = read_keys(file, {})
    assert len(ring) == 2
    found = ring.find(first), ring.find(second)
    assert [key and (key.name, key.models, key.admin) for key in found] == [
        ("first", ("one",), False),
        ("second", None, True),
    ]
    if text.startswith("#"):
        assert file.read_text(encoding="utf-8").startswith("# ours\n")


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "# a comment\n"])
def test_a_key_is_added_to_a_file_that_holds_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text, encoding="utf-8")
    key = run(KeySettings(name="first", output=file))["key"]
    assert read_keys(file, {}).find(key) is not None


@pytest.mark.parametrize("loads_more", [False, True])
def test_a_key_for_a_model_that_does_not_exist_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loads_more: bool
) -> None:
    make(tmp_path / "keys.yaml", "shop", model=("one", "onne"))
    models = save_models(tmp_path)
    more = {"adapter_folder": models} if loads_more else {}
    with served(settings_for(models, **more), read_keys(tmp_path / "keys.yaml", {})) as server:
        greeting = _greeting(server, settings_for(models, **more), 1.0)
    warning = "WARNING: API key 'shop' is for 'onne', which is not a model of this server"
    assert (warning in greeting) is not loads_more
    assert "'one'," not in greeting


def test_a_file_that_is_not_text_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(b"# caf\xe9\n")
    with pytest.raises(DataError, match=r"keys.yaml: is not UTF-8 text"):
        add_key(path, "new")
    assert path.read_bytes() == b"# caf\xe9\n"
    with pytest.raises(DataError, match="directory"):
        add_key(tmp_path, "new")


def test_keys_that_are_created_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    command = "import sys; from pathlib import Path; from tailora.serve.keys import add_key; "
    command += "[add_key(Path(sys.argv[1]), f'{sys.argv[2]}-{n}') for n in range(10)]"
    processes = [subprocess.Popen([sys.executable, "-c", command, str(path), str(number)]) for number in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert {key.name for key in read_keys(path, {})} == {f"{number}-{n}" for number in range(3) for n in range(10)}
