"""Adapters of the hub by id and revision, from a hub on this machine and from its library's cache, in processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bases import META, save_adapter, save_base
from hub_server import Repository, hub_of
from tailora.models.hub_adapters import is_hub_adapter
from tailora.serve.hub import HubAdapters

NEW, OLD = "a" * 40, "b" * 40
NOWHERE = "http://127.0.0.1:9"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, adapters for it, and one of other weights."""
    place = tmp_path_factory.mktemp("hub")
    save_base(place / "base")
    save_base(place / "other", "llama")
    for seed, name in enumerate(("new", "old"), start=1):
        save_adapter(place / name, str(place / "base"), seed=seed)
    save_adapter(place / "foreign", str(place / "other"), meta=META)
    return place


@pytest.fixture(scope="module")
def hub(place: Path) -> Iterator[tuple[str, list[str]]]:
    new, old = files_of(place / "new"), files_of(place / "old")
    code = {"run.py": b"open('ran', 'w')", "__init__.py": b"open('ran', 'w')", "adapter_model.bin": b"no weights"}
    trap = pickle.dumps(Trap(place / "ran"))
    pickled = {name: content for name, content in new.items() if name != "adapter_model.safetensors"}
    peft_only = {name: content for name, content in new.items() if name != "tailora.json"}
    config = json.loads(new["adapter_config.json"]) | {"base_model_name_or_path": "other-org/another-base"}
    models = {
        "org/e2e": Repository({NEW: {**new, **code}, OLD: old}, tags={"v1": OLD}),
        "org/formal": Repository({NEW: old}),
        "org/pickled": Repository({NEW: {**pickled, "adapter_model.bin": trap}}),
        "org/foreign": Repository({NEW: files_of(place / "foreign")}),
        "org/named": Repository({NEW: {**peft_only, "adapter_config.json": json.dumps(config).encode()}}),
        "org/secret": Repository({NEW: new}, token="hf_mine"),
        "org/gated": Repository({NEW: new}, gated=True),
        "else/e2e": Repository({NEW: new}),
    }
    with hub_of({}, models) as served:
        yield served


def environment(home: Path, endpoint: str, **more: str) -> dict[str, str]:
    dropped = ("hf_", "transformers_offline", "http_proxy", "https_proxy", "all_proxy")
    kept = {key: value for key, value in os.environ.items() if not key.lower().startswith(dropped)}
    tests = Path(__file__).parent
    path = os.pathsep.join((str(tests.parent / "src"), str(tests)))
    return kept | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "PYTHONPATH": path} | more


FOLDERS = """
import json, sys
from tailora.core.errors import UserError
from tailora.models.hub_adapters import folder_of
for name, largest in json.loads(sys.argv[1]):
    try:
        folder = folder_of(name, largest=largest)
        answer = {"files": sorted(path.name for path in folder.iterdir()), "folder": str(folder)}
    except UserError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer))
"""


def folders(home: Path, endpoint: str, *names: tuple[str, int], **more: str) -> list[dict[str, Any]]:
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", FOLDERS, json.dumps(names)],
        env=environment(home, endpoint, **more),
        capture_output=True,
        text=True,
        cwd=home,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


LARGE = 1 << 24
WANTED = ["adapter_config.json", "adapter_model.safetensors", "tailora.json"]


def test_only_an_adapters_files_are_downloaded(hub: tuple[str, list[str]], place: Path, tmp_path: Path) -> None:
    endpoint, asked = hub
    cases = {
        "org/nothing": ("ModelError", "there is no such path, and the hub has no such public adapter; check the name"),
        "org/secret": (
            "ModelError",
            "the hub has no such public adapter; check the name; for a private adapter",
        ),
        "org/gated": ("ModelError", "asks for its terms to be accepted; accept them at http://127.0.0.1"),
        "org/e2e@v9": ("ModelError", "the hub has no revision v9 of it; name a commit, a tag or a branch"),
        "org/pickled": ("AdapterError", "org/pickled: has no adapter_model.safetensors, so it is not an adapter in"),
    }
    names = [("org/e2e", LARGE), ("org/e2e@v1", LARGE), (f"org/e2e@{OLD}", LARGE), ("org/formal", 1024)]
    latest, tagged, old, large, *others = folders(tmp_path, endpoint, *names, *((name, LARGE) for name in cases))
    assert latest["files"] == tagged["files"] == WANTED
    assert Path(latest["folder"]).name == NEW
    assert tagged["folder"] == old["folder"]
    assert large["error"] == "AdapterError"
    assert "bytes (limit: 1,024); download it yourself and name its folder" in large["message"]
    for (name, (kind, message)), answer in zip(cases.items(), others, strict=True):
        assert answer.get("error") == kind, (name, answer)
        assert message in answer["message"], name
    assert not (place / "ran").exists()
    assert not any(path.endswith((".py", ".bin")) for path in asked)
    before = len(asked)
    again = folders(tmp_path, NOWHERE, ("org/e2e", LARGE), (f"org/e2e@{OLD}", LARGE), ("org/formal", LARGE))
    assert again[:2] == [latest, old]
    assert again[2]["error"] == "OfflineError"
    assert f"org/formal: there is no such path, and the adapter cannot be downloaded: {NOWHERE}" in again[2]["message"]
    (offline,) = folders(tmp_path, endpoint, ("org/formal", LARGE), HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline["message"]
    assert len(asked) == before
    (private,) = folders(tmp_path, endpoint, ("org/secret", LARGE), HF_TOKEN="hf_mine")
    assert private["files"] == WANTED


def test_generate_takes_an_adapter_of_the_hub(hub: tuple[str, list[str]], place: Path, tmp_path: Path) -> None:
    program = """
import json, sys
from tailora.commands.generate import GenerateSettings, run
for adapter in sys.argv[2:]:
    result = run(GenerateSettings(base=sys.argv[1], adapter=(adapter,), record="name : x", precision="fp32",
                                  max_new_tokens=8))
    print(json.dumps([result["adapter"], result["outputs"][0]["text"]]))
"""
    adapters = ("org/e2e@v1", "shop=org/e2e", str(place / "old"), str(place / "new"))
    done = subprocess.run(
        [sys.executable, "-c", program, str(place / "base"), *adapters],
        env=environment(tmp_path, hub[0]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [name for name, _ in lines] == ["org/e2e@v1", "shop", str(place / "old"), str(place / "new")]
    assert lines[0][1] == lines[2][1] != lines[3][1] == lines[1][1]


SERVER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from live_server import get, post, served, settings_for
from tailora.commands.key import KeySettings, run
from tailora.serve.keys import read_keys

place, home = Path(sys.argv[1]), Path(sys.argv[2])
key = run(KeySettings(name="shop", output=home / "keys.yaml", model=("base", "org/formal")))["key"]
free = run(KeySettings(name="free", output=home / "keys.yaml"))["key"]
settings = settings_for(place, adapter=(), allow_hub=("org",), hub_loaded=2, max_rank=8,
                        compositions={"mix": {"org/e2e": 0.5, "org/formal": 0.5}})
results = {}
with served(settings, read_keys(home / "keys.yaml", {})) as server:
    def ask(model, key=free, **more):
        body = {"model": model, "prompt": "name : x =>", "max_tokens": 8, "temperature": 0, **more}
        answer = post(server, "/v1/completions", body, headers={"Authorization": f"Bearer {key}"})
        return answer.status_code, answer.json()
    def listed():
        models = get(server, "/v1/models", headers={"Authorization": f"Bearer {free}"}).json()["data"]
        return [model["id"] for model in models]
    results["before"] = listed()
    with ThreadPoolExecutor(4) as pool:
        results["together"] = list(pool.map(ask, ["org/e2e@v1"] * 4))
    results["loaded"] = listed()
    results["scoped"] = [ask("org/e2e", key)[0], ask("org/formal", key)[0]]
    results["mix"] = ask("mix")
    results["mixed"] = ask("base", adapters=[{"name": "org/e2e", "weight": 0.5}, {"name": "org/formal", "weight": 0.5}])
    results["after"] = listed()
    for name in ("else/e2e", "org/nothing", "org/foreign", "org/pickled", "no id", "org/a/b", "../etc/passwd"):
        results[name] = ask(name)
print(json.dumps(results))
"""


def test_requests_name_adapters_of_the_hub(hub: tuple[str, list[str]], place: Path, tmp_path: Path) -> None:
    endpoint, asked = hub
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(place), str(tmp_path)],
        env=environment(tmp_path, endpoint),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["before"] == ["base"]
    assert results["loaded"] == ["base", "org/e2e@v1"]
    assert {status for status, _ in results["together"]} == {200}
    assert len({body["choices"][0]["text"] for _, body in results["together"]}) == 1
    assert results["scoped"] == [404, 200]
    assert results["mix"][1]["choices"][0]["text"] == results["mixed"][1]["choices"][0]["text"]
    assert results["after"] == ["base", "org/formal", "org/e2e", "mix"]  # two of the hub are kept
    for name in ("else/e2e", "no id", "org/a/b", "../etc/passwd"):
        assert (results[name][0], results[name][1]["error"]["code"]) == (404, "model_not_found")
    assert (results["org/nothing"][0], results["org/nothing"][1]["error"]["code"]) == (404, "model_not_found")
    for name, message in (
        ("org/foreign", "trained on other weights"),
        ("org/pickled", "not an adapter in safetensors"),
    ):
        assert results[name][0] == 409
        assert message in results[name][1]["error"]["message"]
    assert not (place / "ran").exists()
    assert not any("else/e2e" in path for path in asked)


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        ((), []),
        (("org",), ["org/e2e", "org/e2e@v1"]),
        (("org/e2e",), ["org/e2e", "org/e2e@v1"]),
        (("all",), ["org/e2e", "org/e2e@v1", "organ/e2e"]),
    ],
)
def test_what_requests_may_name(allowed: tuple[str, ...], names: list[str]) -> None:
    candidates = ["org/e2e", "org/e2e@v1", "organ/e2e", "org", "org/", "/e2e", "org/e2e/x", "org/e2e@", "./e2e", "all"]
    assert [name for name in candidates if HubAdapters(allowed, 1024, 1).allows(name)] == names


def test_a_path_is_not_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_adapter("runs/e2e")
    (tmp_path / "runs" / "e2e").mkdir(parents=True)
    assert not is_hub_adapter("runs/e2e")
    assert is_hub_adapter("runs/e2e@v1")
