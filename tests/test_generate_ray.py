"""Texts by Ray Data: those of one engine, complete and in order, also after an actor or the driver was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bases import save_adapter, save_base
from tailora.adapters.config import LoraConfig
from tailora.commands.evaluate import EvaluateSettings
from tailora.commands.evaluate import run as evaluate
from tailora.commands.generate import GenerateSettings, run
from tailora.core.errors import DataError, ModelError, SettingsError
from tailora.inference.setup import resolve_models

ray = pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
pytest.importorskip("ray.data", reason="Ray Data is not installed (extra [ray])")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FLAGS = ("--base", "tiny", "--input", "restaurants", "--split", "train", "--precision", "fp32", "--batch-size", "4")
SECONDS = 240


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Ray with two CPUs, and its address."""
    variables = {name: os.environ[name] for name in ("HF_HUB_OFFLINE", "TAILORA_SELF_CHECK")}
    variables["PYTHONPATH"] = os.pathsep.join(sys.path)
    options: dict[str, Any] = {"object_store_memory": 200 * 2**20, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=2, runtime_env={"env_vars": variables}, **options)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Any]:
    """Settings of two adapters on one base."""
    save_base(tmp_path / "base")
    names = ("one", "two")
    places = {name: save_adapter(tmp_path / name, str(tmp_path / "base"), seed=n) for n, name in enumerate(names, 1)}
    return {"adapter": tuple(f"{name}={place}" for name, place in places.items()), "precision": "fp32"}


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """Records that name different adapters or none; some are equal."""
    rows = [
        {"id": f"r{n}", "facts": {"name": "BlueSpice"[: n % 7 + 2]}, "adapter": ("one", "two", None)[n % 3]}
        for n in range(40)
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def apart_from_rounding(rows: Any) -> Any:
    """Rows with their log-probabilities with a tolerance: their last digits depend on the other rows of a batch."""
    if isinstance(rows, float):
        return pytest.approx(rows, abs=1e-3)
    if isinstance(rows, list):
        return [apart_from_rounding(row) for row in rows]
    return {name: apart_from_rounding(value) for name, value in rows.items()} if isinstance(rows, dict) else rows


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "decoding",
    [
        {},
        {"beams": 3, "rerank": "fidelity", "logprobs": True},
        {"temperature": 1.0, "num_candidates": 2, "seed": 3, "stop": ("a",)},
    ],
)
def test_texts_and_file_are_those_of_one_engine(
    cluster: str, models: dict[str, Any], mixed: str, tmp_path: Path, decoding: dict[str, Any]
) -> None:
    one, several = tmp_path / "one.jsonl", tmp_path / "several.jsonl"
    options = {**models, **decoding, "input": mixed, "max_new_tokens": 8, "batch_size": 2}
    alone = run(GenerateSettings(**options, output=one))
    result = run(GenerateSettings(**options, output=several, ray=True, ray_actors=2, ray_cpus=1))
    assert rows_of(several) == apart_from_rounding(rows_of(one))
    own = ("seconds", "tokens_per_second", "output", "drafted_tokens", "accepted_tokens")  # actors report no drafts
    assert {k: v for k, v in result.items() if k not in own} == {k: v for k, v in alone.items() if k not in own}
    assert ray.is_initialized(), "the job leaves a Ray that it did not start"


def test_evaluate_writes_and_scores_the_same(cluster: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"input": "restaurants", "split": "test", "limit": 12, "base": "tiny", "draws": 100}
    options |= {"precision": "fp32", "max_new_tokens": 20}
    alone = evaluate(EvaluateSettings(**options, output=tmp_path / "one"))
    several = evaluate(EvaluateSettings(**options, output=tmp_path / "several", ray=True, ray_actors=2))
    assert several["all"] == alone["all"]
    outputs = [rows_of(tmp_path / name / "outputs.jsonl") for name in ("one", "several")]
    assert outputs[1] == apart_from_rounding(outputs[0])


def test_an_error_of_one_adapter_leaves_the_other_texts(
    cluster: str, models: dict[str, Any], mixed: str, tmp_path: Path
) -> None:
    huge = LoraConfig(rank=4, alpha=1e38, targets=("attention", "mlp"))
    save_adapter(tmp_path / "two", str(tmp_path / "base"), config=huge)
    output = tmp_path / "outputs.jsonl"
    options = {**models, "input": mixed, "max_new_tokens": 6, "batch_size": 4, "output": output}
    with pytest.raises(ModelError, match=r"record r1: .*not finite.* \(and 6 other texts failed\)"):
        run(GenerateSettings(**options, ray=True, ray_actors=2, ray_cpus=1))
    assert not output.exists()
    kept = [json.loads(line)[0] for line in Path(f"{output}.unfinished").read_text("utf-8").splitlines()[1:]]
    assert sorted(kept) == [number for number in range(40) if number % 3 != 1]


def test_a_prompt_that_is_too_long_and_a_pool_that_is_too_large_are_refused(
    cluster: str, models: dict[str, Any], tmp_path: Path
) -> None:
    long = {**models, "adapter": models["adapter"][:1], "record": "name : " + "x" * 100, "ray": True}
    with pytest.raises(DataError, match=r"record 1: the prompt has \d+ tokens"):
        run(GenerateSettings(**long, ray_actors=1, ray_cpus=1))
    with pytest.raises(SettingsError, match=r"--ray-actors: 1 actor of 9 CPUs need more than the cluster's 2"):
        run(GenerateSettings(base="tiny", record="name : x", ray=True, ray_actors=1, ray_cpus=9))


def test_another_base_on_an_actors_machine_is_refused(cluster: str, models: dict[str, Any], tmp_path: Path) -> None:
    from tailora.inference.ray_texts import RayTexts

    setup = replace(resolve_models(str(tmp_path / "base"), {}), fingerprint="0" * 64)
    settings = GenerateSettings(base=str(tmp_path / "base"), record="a : b", ray=True, ray_actors=1, ray_cpus=1)
    with pytest.raises(ModelError, match="has other weights than the one that runs the command"):
        RayTexts(setup, settings, 10)


def test_a_ray_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from tailora.inference import ray_texts

    def too_slow(**_: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because of load.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_texts.ray, "init", too_slow)
    with pytest.raises(SettingsError, match=r"--ray: Ray cannot be started .The current node timed out.*less to do"):
        ray_texts._join(None, resolve_models("tiny", {}))


def test_a_running_cluster_is_joined_and_left(cluster: str, tmp_path: Path) -> None:
    output = tmp_path / "joined.jsonl"
    short = ("--limit", "9", "--max-new-tokens", "8", "--output", str(output))
    driver = started(*short, "--ray-address", cluster, "--ray-actors", "2")
    assert driver.wait(SECONDS) == 0
    assert len(rows_of(output)) == 9
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    missing = started(*short, "--ray-address", "127.0.0.1:1", "--ray-actors", "2", stderr=subprocess.PIPE)
    _, error = missing.communicate(timeout=SECONDS)
    assert missing.returncode == 2
    assert "tailora: --ray-address: cannot be joined" in error


def test_an_actor_that_is_killed_is_replaced(alone: list[dict[str, Any]], tmp_path: Path) -> None:
    output = tmp_path / "outputs.jsonl"
    driver = started("--output", str(output), "--ray-actors", "2", "--ray-cpus", "1")
    assert 0 < wait_for_texts(output, driver) < 500
    victims = actors_of(driver)
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    assert driver.wait(SECONDS) == 0
    assert rows_of(output) == apart_from_rounding(alone)
    assert not Path(f"{output}.unfinished").exists()


def test_a_driver_that_is_killed_continues_with_the_same_command(alone: list[dict[str, Any]], tmp_path: Path) -> None:
    output = tmp_path / "outputs.jsonl"
    flags = ("--output", str(output), "--ray-actors", "2", "--ray-cpus", "1")
    driver = started(*flags)
    wait_for_texts(output, driver)
    left = actors_of(driver)
    assert left
    driver.kill()
    driver.wait()
    before = texts_in(output)
    assert 0 < before < 500
    again = started(*flags, "--json", stdout=subprocess.PIPE)
    result, _ = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, "and standard output holds one JSON object alone"
    assert json.loads(result)["resumed"] >= before
    assert rows_of(output) == apart_from_rounding(alone)
    assert not [pid for pid in left if is_running(pid)], "the engines of the killed driver have ended"


def test_actors_that_are_killed_again_and_again_end_the_job(tmp_path: Path) -> None:
    output = tmp_path / "outputs.jsonl"
    driver = started("--output", str(output), "--ray-actors", "1", "--ray-cpus", "1", stderr=subprocess.PIPE)
    end = time.monotonic() + SECONDS
    while driver.poll() is None and time.monotonic() < end:
        for pid in actors_of(driver):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    _, error = driver.communicate(timeout=10)
    assert driver.returncode == 2, error
    assert "tailora: an actor was lost 4 times; its machine may lack memory" in error


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one engine writes."""
    output = tmp_path_factory.mktemp("alone") / "outputs.jsonl"
    command = [sys.executable, "-m", "tailora", "generate", *FLAGS, "--output", str(output)]
    subprocess.run(command, check=True)
    return rows_of(output)


def started(*flags: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tailora", "generate", *FLAGS, "--ray", *flags]
    return subprocess.Popen(command, text=True, **options)


def texts_in(output: Path) -> int:
    log = Path(f"{output}.unfinished")
    return max(0, log.read_bytes().count(b"\n") - 1) if log.exists() else 0


def wait_for_texts(output: Path, driver: subprocess.Popen[str]) -> int:
    """Wait for the first texts and return their number."""
    end = time.monotonic() + SECONDS
    while not (count := texts_in(output)):
        assert driver.poll() is None, "the driver ended before a text was written"
        assert time.monotonic() < end
        time.sleep(0.02)
    return count


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, queue = [], [pid]
    while queue:
        more = children.get(queue.pop(), [])
        found += more
        queue += more
    return found


def actors_of(driver: subprocess.Popen[str]) -> list[int]:
    """The processes of the driver's actors."""
    return [pid for pid in descendants(driver.pid) if b"ray::MapWorker" in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_running(pid: int) -> bool:
    """Whether a process exists, waiting a moment for its end."""
    end = time.monotonic() + 20
    while command_line(pid):
        if time.monotonic() > end:
            return True
        time.sleep(0.1)
    return False
