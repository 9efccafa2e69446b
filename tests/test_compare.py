"""A comparison: every method trained, written with and scored; what fails says so; what is there is used again."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bases import save_base
from tailora import cli
from tailora.commands import compare
from tailora.commands.compare import CompareSettings
from tailora.core.errors import SettingsError, TrainingError
from tailora.experiments import compared_texts, comparison, decoding_runs, processes
from tailora.reports.comparison import as_html, disk, sheet
from tailora.reports.tables import as_markdown
from tailora.training.settings import TrainSettings

ROWS = [
    {"facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
    for name in ("Ada", "Bob", "Cy")
    for colour in ("red", "blue")
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in (("train", ROWS[:3]), ("valid", ROWS[3:5]), ("test", ROWS[4:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the verbs in this process, which spares loading the libraries for each; gives the list of those that ran."""
    verbs: list[str] = []

    def tailora(*arguments: str) -> dict[str, Any]:
        verbs.append(arguments[0])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main([*arguments, "--json"])
        if code == 2:
            raise processes.CommandError(err.getvalue().strip().splitlines()[-1].removeprefix("tailora: "))
        assert code == 0, err.getvalue()
        found: dict[str, Any] = json.loads(out.getvalue())
        return found

    for module in (comparison, compared_texts):
        monkeypatch.setattr(module, "run_command", tailora)
    monkeypatch.setattr(decoding_runs, "run_module", lambda _, model: decoding_runs.measure(json.loads(model)))
    return verbs


def settings(tmp_path: Path, data: Path, kind: str = "gpt2", **others: Any) -> CompareSettings:
    base = tmp_path / kind
    if not base.exists():
        save_base(base, kind)
    rates = {name: [1e-2] for name in ("full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix")} | {
        "lora": [1e-2, 3e-2]
    }
    values: dict[str, Any] = {
        "epochs": 1,
        "max_new_tokens": 4,
        "metrics": ["bleu", "slots"],
        "learning_rates": rates,
        "precision": "fp32",
    }
    return CompareSettings(data=str(data), base=str(base), output=tmp_path / "out", **{**values, **others})


def test_every_method_is_measured(tmp_path: Path, data: Path, here: list[str]) -> None:
    result = compare.run(settings(tmp_path, data))
    rows = result["methods"]
    assert list(rows) == ["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix", "base"]
    for name, row in rows.items():
        assert row["scores"]["bleu"]["low"] <= row["scores"]["bleu"]["value"] <= row["scores"]["bleu"]["high"]
        assert row["decoding"]["records"] == 2
        speed = row["decoding"]["speed"]
        assert 0 < speed["lowest"] <= speed["highest"]
        assert (speed["rounds"], speed["laps"], speed["texts"]) == (3, 9, 16)
        assert 1 <= speed["tokens"] <= 32
        if name == "base":
            continue
        trainable = row["parameters"]["trainable"]
        # Two moments in fp32 for each parameter, and a counter for each tensor.
        assert 8 * trainable < row["optimizer_bytes"] < 8 * trainable + 4 * 200
        assert row["saved_bytes"] > 4 * trainable
        assert row["validation_loss"]["after"] == min(each["validation_loss"] for each in row["grid"])
        assert row["seconds_per_step"] > 0
        assert row["peak_memory_bytes"] > 2**26
        assert row["examples"] == 3
    assert rows["full"]["parameters"]["percent"] == 100
    assert len(rows["lora"]["grid"]) == 2
    assert json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))["methods"] == rows
    markdown = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    for name in ("LoRA", "full fine-tuning", "biases only", "top two blocks", "optimiser state", "decoding, tokens/s"):
        assert name in markdown
        assert name in page
    assert page.count("<svg") == 2


def test_each_seed_is_trained_at_the_best_rate_and_reported(tmp_path: Path, data: Path, here: list[str]) -> None:
    chosen = settings(tmp_path, data, methods=("lora", "top2"), seeds=(3, 1, 2))
    result = compare.run(chosen)
    assert here.count("train") == 2 + 1 + 2 * 2  # rates of lora, one of top2, and two further seeds of each
    for method, row in list(result["methods"].items())[:2]:
        seeds = row["seeds"]
        assert [own["seed"] for own in seeds] == [3, 1, 2]
        assert seeds[0]["run"] == row["run"]
        assert [own["run"] for own in seeds[1:]] == [f"runs/{method}-seed1", f"runs/{method}-seed2"]
        if method == "lora":  # the seed of the others is only that of an order, and all examples are in one batch
            assert len({own["validation_loss"]["after"] for own in seeds}) == 3
        for own in seeds:
            run = json.loads((tmp_path / "out" / own["run"] / "run.json").read_text("utf-8"))
            assert run["settings"]["seed"] == own["seed"]
            assert run["settings"]["learning_rate"] == row["learning_rate"]
        losses = [own["validation_loss"]["after"] for own in seeds]
        bleu = [100 * own["scores"]["bleu"]["value"] for own in seeds]
        page = (tmp_path / "out" / "compare.md").read_text("utf-8")
        assert f"{np.mean(losses):.3f} ± {np.std(losses, ddof=1):.3f}" in page
        assert f"{np.mean(bleu):.1f} ± {np.std(bleu, ddof=1):.1f}" in page
    assert "of 3 seeds (3, 1, 2)" in page
    assert "seeds" not in result["methods"]["base"]
    compare.run(chosen)
    assert here.count("train") == 7


def test_a_run_of_a_version_with_fewer_settings_is_used_again(tmp_path: Path, data: Path, here: list[str]) -> None:
    chosen = settings(tmp_path, data, methods=("bitfit",))
    first = compare.run(chosen)
    record = tmp_path / "out" / first["methods"]["bitfit"]["run"] / "run.json"
    run = json.loads(record.read_text("utf-8"))
    del run["settings"]["bottleneck"]
    record.write_text(json.dumps(run), encoding="utf-8")
    compare.run(chosen)
    assert here.count("train") == 1


def test_what_is_there_is_used_again_and_what_was_cut_short_is_not(tmp_path: Path, data: Path, here: list[str]) -> None:
    chosen = settings(tmp_path, data, methods=("lora", "bitfit"))
    first = compare.run(chosen)
    assert here.count("train") == 3
    repeated = compare.run(chosen)
    assert here.count("train") == 3
    speeds = [
        {name: row["decoding"]["speed"] for name, row in result["methods"].items()} for result in (first, repeated)
    ]
    assert speeds[0] == speeds[1]
    account = tmp_path / "out" / first["methods"]["bitfit"]["run"] / "run.json"
    cut = {**json.loads(account.read_text(encoding="utf-8")), "interrupted": True}
    account.write_text(json.dumps(cut), encoding="utf-8")
    again = compare.run(chosen)
    assert here.count("train") == 4
    assert again["methods"]["lora"]["decoding"]["speed"] != first["methods"]["lora"]["decoding"]["speed"]
    assert again["methods"]["bitfit"]["validation_loss"] == first["methods"]["bitfit"]["validation_loss"]
    with pytest.raises(SettingsError, match="contains a run with other settings"):
        compare.run(settings(tmp_path, data, methods=("lora",), batch_size=2))


def test_a_run_that_was_killed_continues_from_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, wanted = tmp_path / "grid" / "lora-0.01", TrainSettings(data="restaurants", learning_rate=0.01)
    states = folder / "resume"
    for left in (["state-000000003.safetensors"], []):
        states.mkdir(parents=True)
        for name in left:
            (states / name).touch()
        if not left:  # the run ended, and cannot be used
            states.rmdir()
        (folder / "run.json").write_text(json.dumps({"settings": wanted.model_dump(mode="json")}), encoding="utf-8")

        def train(*_: str, left: list[str] = left) -> dict[str, Any]:
            assert [path.name for path in states.glob("*")] == left
            assert folder.exists() == bool(left)
            return {"validation_loss": {"after": 1.5}}

        monkeypatch.setattr(comparison, "run_command", train)
        assert comparison._trained(folder, wanted)["validation_loss"] == {"after": 1.5}
        shutil.rmtree(folder, ignore_errors=True)


def test_a_finished_comparison_is_not_done_again(tmp_path: Path, data: Path, here: list[str]) -> None:
    chosen = settings(tmp_path, data, methods=("bitfit",))
    first = compare.run(chosen)
    assert here == ["train", "merge", "generate", "evaluate", "generate", "evaluate"]

    def state() -> dict[Path, tuple[int, bytes]]:
        files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    assert compare.run(chosen) == first
    assert len(here) == 6
    assert state() == before
    compare.run(chosen.model_copy(update={"draws": 200}))
    assert here[6:] == ["evaluate", "evaluate"]
    compare.run(chosen.model_copy(update={"max_new_tokens": 3}))
    assert here[8:] == ["merge", "generate", "evaluate", "generate", "evaluate"]


def test_a_comparison_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, data: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start may run one command; no command runs twice."""
    tailora = compared_texts.run_command
    left = 0

    def once(*arguments: str) -> dict[str, Any]:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return tailora(*arguments)

    for module in (comparison, compared_texts):
        monkeypatch.setattr(module, "run_command", once)
    chosen = settings(tmp_path, data, methods=("bitfit",))
    for _ in range(6):
        left = 1
        with contextlib.suppress(KeyboardInterrupt):
            result = compare.run(chosen)
    assert here == ["train", "merge", "generate", "evaluate", "generate", "evaluate"]
    assert set(result["methods"]) == {"bitfit", "base"}
    (tmp_path / "out" / "texts" / "base.jsonl").unlink()
    left = 2
    assert compare.run(chosen)["methods"]["base"]["scores"] == result["methods"]["base"]["scores"]
    assert here[6:] == ["generate", "evaluate"]


@pytest.mark.parametrize(
    ("changed", "what"), [("train", "training data"), ("valid", "validation data"), ("base", "base")]
)
def test_runs_of_other_data_or_weights_are_not_used_again(
    tmp_path: Path, data: Path, here: list[str], changed: str, what: str
) -> None:
    chosen = settings(tmp_path, data, methods=("bitfit",))
    compare.run(chosen)
    if changed == "base":
        save_base(tmp_path / "gpt2", "gpt2", dtype=torch.bfloat16)
    else:
        (data / f"{changed}.jsonl").write_text(json.dumps(ROWS[5]) + "\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=f"before the {what} changed"):
        compare.run(chosen)
    assert here.count("train") == 1
    compare.run(chosen.model_copy(update={"output": tmp_path / "new"}))
    assert here.count("train") == 2


def test_a_small_grid_chooses_the_rate_of_the_run(tmp_path: Path, data: Path, here: list[str]) -> None:
    result = compare.run(settings(tmp_path, data, methods=("lora",), grid_limit=1))
    row = result["methods"]["lora"]
    assert row["examples"] == 3
    assert row["run"] == "runs/lora"
    best = min(row["grid"], key=lambda each: each["validation_loss"])
    assert row["learning_rate"] == best["learning_rate"]
    assert here.count("train") == 3


def test_a_method_that_cannot_be_says_so_and_the_others_go_on(tmp_path: Path, data: Path, here: list[str]) -> None:
    chosen = settings(tmp_path, data, "llama", methods=("lora", "bitfit"))  # without biases
    result = compare.run(chosen)
    assert "no parameter for the method bitfit" in result["methods"]["bitfit"]["failed"]
    assert "Not trained: biases only (" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "run" in result["methods"]["lora"]
    with pytest.raises(TrainingError, match="no method could be trained"):
        compare.run(settings(tmp_path, data, "llama", methods=("bitfit",)))


def test_a_method_that_only_made_the_base_worse_says_so_and_the_others_go_on(
    tmp_path: Path, data: Path, here: list[str]
) -> None:
    rates = {"bitfit": [100.0], "lora": [1e-2]}
    result = compare.run(settings(tmp_path, data, methods=("bitfit", "lora"), learning_rates=rates))
    assert "changes nothing" in result["methods"]["bitfit"]["failed"]
    assert len(result["methods"]["bitfit"]["grid"]) == 1
    assert "run" in result["methods"]["lora"]


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"method": "full"}, r"no such setting; did you mean methods\?"),
        ({"learning_rate": 1.0}, r"no such setting; did you mean learning_rates\?"),
        ({"methods": []}, "no method to compare"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"seeds": [1, 2], "seed": 3}, "give one of --seeds and --seed"),
        ({"metrics": ["blue"]}, "each value must be bleu, .*, not 'blue'"),
        ({"learning_rates": {"lorra": [1]}}, "'lorra' is not a method"),
        ({"learning_rates": {"lora": "a|b"}}, "is not a list of numbers"),
        ({"learning_rates": {"lora": [0.0]}}, "learning rates must be above 0"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        CompareSettings(data="restaurants", **values)


@pytest.mark.skipif(sys.platform == "win32", reason="a script of the shell takes the place of Python")
def test_a_process_may_write_in_the_encoding_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nprintf 'acc\\350s refus\\351\\n' >&2\necho '{\"steps\": 3}'\n", encoding="ascii")
    program.chmod(0o700)
    monkeypatch.setattr(processes.sys, "executable", str(program))
    assert processes.run_command("train") == {"steps": 3}
    program.write_text("#!/bin/sh\nprintf 'tailora: acc\\350s\\n' >&2\nexit 2\n", encoding="ascii")
    with pytest.raises(processes.CommandError, match=r"^acc\ufffds$"):
        processes.run_command("train")


def test_a_process_that_is_killed_fails_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.sys, "executable", "/bin/sh")
    monkeypatch.setattr(processes.subprocess, "run", _answering(-9, ""))
    with pytest.raises(processes.CommandError, match="killed by signal 9"):
        processes.run_command("train")
    monkeypatch.setattr(
        processes.subprocess, "run", _answering(2, "progress\ntailora: data: is not there; correct it\n")
    )
    with pytest.raises(processes.CommandError, match="data: is not there; correct it"):
        processes.run_command("train")
    monkeypatch.setattr(processes.subprocess, "run", _answering(130, ""))
    with pytest.raises(KeyboardInterrupt):
        processes.run_command("train")
    monkeypatch.setattr(processes.subprocess, "run", _answering(1, "Traceback"))
    with pytest.raises(RuntimeError, match="Traceback"):
        processes.run_command("train")


def _answering(code: int, stderr: str) -> Any:
    return lambda command, **_: processes.subprocess.CompletedProcess(command, code, "", stderr)


def test_the_disk_of_several_tasks() -> None:
    adapter = {"parameters": {"percent": 1.0}, "saved_bytes": 10}
    whole = {"parameters": {"percent": 100.0}, "saved_bytes": 1000}
    assert disk(adapter, 1000, 3) == 1030
    assert disk(whole, 1000, 3) == 3000


def test_words_of_a_report_are_escaped() -> None:
    row = {"failed": "a <b> | c", "grid": [{"learning_rate": 0.1, "validation_loss": None, "failed": "a <b> | c"}]}
    good = {
        **{"run": "grid/lora", "learning_rate": 0.1, "parameters": {"trainable": 1, "percent": 1.0}, "saved_bytes": 1},
        **{"peak_memory_bytes": None, "optimizer_bytes": 8, "precision": "fp32", "seconds_per_step": 0.1, "steps": 1},
        **{"examples_per_second": 1.0, "validation_loss": {"before": 2.0, "after": 1.0}, "examples": 1, "scores": {}},
        **{"grid": [{"learning_rate": 0.1, "validation_loss": 1.0}]},
    }
    result = {"base": "b", "base_bytes": 1, "data": "d", "tasks": 2, "settings": {}}
    told = sheet({**result, "methods": {"lora": good, "full": row}, "hardware": {"cpu": "c", "cores": 2}}, {})
    assert "a &lt;b&gt; | c" in as_html(told, [])
    assert "| a <b> \\| c |" in as_markdown(told)


@pytest.mark.slow
def test_in_processes_of_their_own(tmp_path: Path, data: Path) -> None:
    """Peaks of memory are the runs' own: what this process holds is not in them."""
    held = np.ones(2**31, np.int8)
    result = compare.run(settings(tmp_path, data))
    memory = {name: row["peak_memory_bytes"] for name, row in result["methods"].items() if "run" in row}
    assert set(memory) == {"lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"}
    assert all(2**26 < peak < held.nbytes for peak in memory.values())
