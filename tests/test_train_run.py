"""A run from settings to a run directory, on the smallest base model that can be."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from bases import save_tokenizer
from command_processes import started
from networks import network
from tailora import cli
from tailora.adapters import formats
from tailora.adapters.adapter import changes_nothing
from tailora.core.errors import DataError, SettingsError, TrainingError
from tailora.data.examples import Example
from tailora.data.tokenizer import Tokenizer
from tailora.data.trained_reading import TrainedReading
from tailora.models.load import load_base
from tailora.models.provenance import training_metadata
from tailora.training import int8, learner, planning, precision, precision_choice
from tailora.training import run as run_module
from tailora.training.methods import load_delta
from tailora.training.optimizer import learning_rate, set_learning_rate
from tailora.training.run import run
from tailora.training.run_folder import run_folder
from tailora.training.run_report import RunObserver
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import passes

ROWS = [
    {"facts": {"name": name, "colour": colour}, "text": f"{name} is {colour}."}
    for name in ("Ada", "Bob", "Cy")
    for colour in ("red", "blue", "green", "grey")
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([row["text"] for row in ROWS], vocab_size=300, special_tokens=["<|endoftext|>"])
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}), encoding="utf-8")
    size = bpe.get_vocab_size()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=size, n_positions=64, n_embd=32, n_layer=3, n_head=2, eos_token_id=0, bos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, rows in (("train", ROWS[:9]), ("valid", ROWS[9:])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def settings(base: Path, data: Path, output: Path, **more: object) -> TrainSettings:
    given: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "targets": ("attention.qv",),
        "precision": "fp32",
        "device": "cpu",
    }
    return TrainSettings(data=str(data), base=str(base), output=output, **(given | more))


def test_run_directory_of_an_adapter(base: Path, data: Path, tmp_path: Path) -> None:
    result = run(settings(base, data, tmp_path / "run"))
    written = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = result["validation_loss"]

    assert losses["after"] < losses["before"]
    assert losses["after"] == min(line["validation_loss"] for line in lines if "validation_loss" in line)
    assert written["steps"] == 12
    assert written["saving_seconds"] > 0
    assert written["account"]["parameters"]["trainable"] == 3 * 2 * 8 * (32 + 32)
    assert sum("loss" in line for line in lines) == 12
    assert (tmp_path / "run" / "loss.svg").read_text(encoding="utf-8").startswith("<?xml")
    adapter = formats.load(tmp_path / "run" / "adapter")
    assert not changes_nothing(adapter)
    assert adapter.base_fingerprint == written["account"]["base_fingerprint"]
    assert adapter.meta["prompt_form"] == "paper"


def test_texts_that_would_change_the_rotary_frequencies_of_others_are_refused(data: Path, tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
    model = network("llama", vocab_size=save_tokenizer(tmp_path / "base"), rope_parameters=rope)
    model.save_pretrained(tmp_path / "base")
    with pytest.raises(DataError, match="16 tokens"):
        run(settings(tmp_path / "base", data, tmp_path / "run"))


def test_same_seed_same_adapter(base: Path, data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(settings(base, data, tmp_path / name, epochs=1, dropout=0.1))
    one, two = (formats.load(tmp_path / name / "adapter") for name in ("one", "two"))
    assert one.content_hash == two.content_hash


def test_accumulation_changes_nothing(base: Path, data: Path, tmp_path: Path) -> None:
    losses = []
    for nodes in (4096, 8):
        result = run(settings(base, data, tmp_path / str(nodes), tokens_per_pass=nodes))
        losses.append(result["validation_loss"]["after"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("method", "saved"), [("full", "model"), ("bitfit", "delta.safetensors"), ("top2", "delta.safetensors")]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_methods(base: Path, data: Path, tmp_path: Path, method: str, saved: str, precision: str) -> None:
    result = run(settings(base, data, tmp_path / "run", method=method, precision=precision, epochs=2))
    assert result["saved"] == saved
    assert result["validation_loss"]["after"] < result["validation_loss"]["before"]
    if method == "full":
        assert (tmp_path / "run" / "model" / "tokenizer.json").exists()
        return
    names = load_file(tmp_path / "run" / saved).keys()
    if method == "bitfit":
        assert all(name.endswith(".bias") for name in names)
    else:
        assert {name.split(".")[2] for name in names if ".h." in name} == {"1", "2"}
        assert "transformer.ln_f.weight" in names


def test_a_model_keeps_what_texts_begin_and_end_with(base: Path, data: Path, tmp_path: Path) -> None:
    """Chat templates in files of their own, end-of-text tokens, and the prompt form that it was trained on."""
    source = tmp_path / "base"
    shutil.copytree(base, source)
    ends = {"eos_token_id": [0, 5]}
    (source / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (source / "chat_template.jinja").write_text(template, encoding="utf-8")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("tools", encoding="utf-8")
    run(settings(source, data, tmp_path / "run", method="full", prompt_form="arrow", max_steps=2))
    made = tmp_path / "run" / "model"
    assert (made / "chat_template.jinja").read_text(encoding="utf-8") == template
    assert (made / "additional_chat_templates" / "tool_use.jinja").is_file()
    assert Tokenizer.from_folder(made).end_ids == {0, 5}
    assert training_metadata(made)["prompt_form"] == "arrow"


def test_bf16_adapter_learns(base: Path, data: Path, tmp_path: Path) -> None:
    result = run(settings(base, data, tmp_path / "run", precision="bf16", targets=("attention",)))
    assert result["account"]["precision"] == "bf16"
    assert result["validation_loss"]["after"] < result["validation_loss"]["before"]


def test_patience_stops_early(base: Path, data: Path, tmp_path: Path) -> None:
    result = run(settings(base, data, tmp_path / "run", epochs=40, eval_every=1, patience=2, learning_rate=0.3))
    assert result["steps"] < 120


def test_a_base_at_chance_is_named(base: Path, data: Path, tmp_path: Path) -> None:
    result = run(settings(base, data, tmp_path / "run", epochs=1))
    assert "no better than chance" in result["warnings"][0]


def test_existing_run_is_kept(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SettingsError, match="already exists; choose another place with --output"):
        run(settings(base, data, tmp_path))


def test_unreachable_target_is_said(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="c_attn"):
        run(settings(base, data, tmp_path / "run", targets=("no_such_layer",)))
    assert not (tmp_path / "run").exists()


def test_adapter_that_learns_nothing_is_an_error(base: Path, data: Path, tmp_path: Path) -> None:
    # A learning rate so small that it is lost in fp32.
    with pytest.raises(TrainingError, match="still all zero"):
        run(settings(base, data, tmp_path / "run", max_steps=1, learning_rate=1e-300))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_learning_rate_rises_then_falls(schedule: str) -> None:
    rates = [learning_rate(n, 100, peak=2.0, warmup_steps=10, schedule=schedule) for n in range(100)]  # type: ignore[arg-type]
    assert rates[:10] == pytest.approx([0.2 * (n + 1) for n in range(10)])
    assert max(rates) == 2.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert math.isclose(rates[-1], 2.0) if schedule == "constant" else rates[-1] < 0.05


def test_passes_hold_every_example() -> None:
    examples = [Example(str(n), (n, 1, 2), (3, n, 4)) for n in range(9)]
    parts = list(passes(examples, 11))
    assert all(len(part) <= 11 for part in parts)
    assert sum(part.examples for part in parts) == 9
    assert sum(part.completion_tokens for part in parts) == 27


@pytest.mark.parametrize("eval_every", [2, 99])
def test_ctrl_c_keeps_what_was_learnt(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eval_every: int
) -> None:
    rates = itertools.count()

    def interrupted(*arguments: Any) -> float:
        if next(rates) == 5:
            raise KeyboardInterrupt
        return set_learning_rate(*arguments)

    monkeypatch.setattr(learner, "set_learning_rate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings(base, data, tmp_path / "run", eval_every=eval_every))
    written = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (written["interrupted"], written["steps"]) == (True, 5)
    assert (written["validation_loss"]["after"] is None) is (eval_every == 99)
    assert not changes_nothing(formats.load(tmp_path / "run" / "adapter"))


def test_a_larger_group_shares_more(base: Path, tmp_path: Path) -> None:
    rows = [
        {"facts": {"name": name}, "text": text}
        for name in ("Ada", "Bob")
        for text in (f"{name} is here.", f"{name} was here.", f"{name} is there.", f"{name} was there.")
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokens = {}
    for size in (None, 1, 4):
        result = run(settings(base, data, tmp_path / f"run{size}", epochs=1, group_size=size))
        tokens[size] = result["account"]["tokens_per_epoch"]["trees"]
    assert tokens[None] == tokens[1] > tokens[4]


@pytest.mark.parametrize("method", ["lora", "full", "bitfit"])
def test_each_best_validation_leaves_something_usable(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """What a killed process leaves: read after every update, as if the run had ended there without a word."""
    folder = tmp_path / "run"
    losses: list[float] = []

    def watch(step: int, loss: float) -> None:
        losses.append(loss)
        if step == 0:
            assert [path.name for path in folder.iterdir() if path.is_dir()] == ["resume"]
        elif loss == min(losses):
            if method == "lora":
                adapter = formats.load(formats.adapter_place(folder))
                assert adapter.meta["scores"] == {"validation_loss": loss}
                assert not changes_nothing(adapter)
            elif method == "full":
                assert json.loads((folder / "model" / "config.json").read_text())["model_type"] == "gpt2"
                load_base(str(folder / "model"))
            else:
                load_delta(folder)

    result = run(settings(base, data, folder, method=method, epochs=2), watch)
    assert len(losses) == 3
    assert not (folder / "checkpoints").exists()
    if method == "full":
        same = load_base(str(folder / "model")).model.config._attn_implementation
        assert same != "tailora_tree"
    assert result["validation_loss"]["after"] == min(losses)


def wait_for_validations(folder: Path, process: BaseProcess, errors: Path) -> None:
    """Until the run has validated twice since its start, and so has saved something."""
    while process.is_alive():
        with contextlib.suppress(OSError):
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            if sum("validation_loss" in line for line in lines) > 2:
                return
        time.sleep(0.05)
    pytest.fail(f"the run ended by itself: {errors.read_text(encoding='utf-8')}")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes at once")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_run_that_is_ended_from_outside_leaves_its_adapter(
    base: Path, data: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    folder, config = tmp_path / "run", tmp_path / "recipe.yaml"
    endless = settings(base, data, folder, epochs=100_000, eval_every=1, learning_rate=1e-5, schedule="constant")
    config.write_text(endless.to_yaml(), encoding="utf-8")
    process = started(["train", str(config)], tmp_path / "errors.txt")
    wait_for_validations(folder, process, tmp_path / "errors.txt")
    assert process.pid is not None
    os.kill(process.pid, sent)
    process.join(60)
    said = (tmp_path / "errors.txt").read_text(encoding="utf-8")
    assert process.exitcode == code
    adapter = formats.load(formats.adapter_place(folder))
    assert not changes_nothing(adapter)
    written = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert written["account"]["base_fingerprint"] == adapter.base_fingerprint
    if sent != signal.SIGKILL:
        assert written["interrupted"]
        assert "Traceback" not in said
        assert f"the state after update {written['validation_loss']['step']} is saved" in said
        assert written["validation_loss"]["after"] == adapter.meta["scores"]["validation_loss"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize(
    ("limit", "state"),
    [
        (8192, "no result of the run is saved"),  # the first adapter does not fit
        (32768, "the best state so far is in "),  # metrics.jsonl outgrows the limit later
    ],
)
def test_a_full_disk_ends_a_run_with_what_is_saved(
    base: Path, data: Path, tmp_path: Path, limit: int, state: str
) -> None:
    """By the limit on the size of files, which fails as a full disk does."""
    folder, config = tmp_path / "run", tmp_path / "recipe.yaml"
    endless = settings(base, data, folder, epochs=100_000, eval_every=20, learning_rate=1e-5, schedule="constant")
    config.write_text(endless.to_yaml(), encoding="utf-8")
    process = started(["train", str(config)], tmp_path / "errors.txt", largest_file=limit)
    process.join(120)
    errors = (tmp_path / "errors.txt").read_text(encoding="utf-8")
    assert process.exitcode == 2, errors
    shown = " ".join(errors.split())
    assert "cannot be written: File too large; " in shown
    assert state in shown
    assert "free some space, or choose another place with --output" in shown
    assert "Traceback" not in errors
    if "best state" in state:
        adapter = formats.load(formats.adapter_place(folder))
        assert not changes_nothing(adapter)
    else:
        assert not folder.exists()  # so that the same command starts again


def test_a_run_directory_is_not_data(base: Path, data: Path, tmp_path: Path) -> None:
    run(settings(base, data, tmp_path / "run", max_steps=1))
    for field in ("data", "valid"):
        wrong = settings(base, data, tmp_path / "again").model_copy(update={field: str(tmp_path / "run")})
        with pytest.raises(DataError) as error:
            run(wrong)
        assert str(error.value) == (
            f"{tmp_path / 'run'}: is a run directory, which contains no records; "
            f"give the data that it was trained on ({data})"
        )
    assert not (tmp_path / "again").exists()


def test_one_update_is_not_called_updates(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings(base, data, tmp_path / "run", max_steps=1))
    shown = capsys.readouterr().err
    assert "examples, 1 update; an epoch has" in " ".join(shown.split())
    assert "\n1 update in " in shown


def test_the_time_that_is_left_is_printed_after_the_first_updates(tmp_path: Path) -> None:
    """Where no progress bar says it; the first updates build kernels and take longer."""
    shown = io.StringIO()
    with RunObserver(tmp_path, 100, Console(file=shown), lambda loss: None, None) as observer:
        for step in range(1, 13):
            seconds = 600.0 if step <= 2 else 60.0
            observer.step({"step": step, "loss": 1.0, "examples": 4, "seconds": seconds})
    assert shown.getvalue() == "estimated after 10 updates: 90 minutes left\n"


def test_sigterm_is_as_it_was_after_a_run(base: Path, data: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(settings(base, data, tmp_path / "run", max_steps=1))
    assert signal.getsignal(signal.SIGTERM) is before
    seen: list[BaseException] = []

    def elsewhere() -> None:
        try:
            run(settings(base, data, tmp_path / "thread", max_steps=1))
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not seen


def exploding(model: torch.nn.Module, update: int) -> bool:
    """Make a gradient not finite at an update."""
    count = itertools.count(1)

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan if next(count) == update else gradient

    next(p for p in model.parameters() if p.requires_grad).register_hook(hook)
    return True


@pytest.mark.parametrize("method", ["lora", "full", "top2"])
def test_a_loss_that_is_not_finite_keeps_the_best_so_far(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    folder, fit = tmp_path / "run", run_module.fit
    monkeypatch.setattr(
        run_module, "fit", lambda model, *rest, **more: exploding(model, 8) and fit(model, *rest, **more)
    )
    with pytest.raises(TrainingError) as failed:
        run(settings(base, data, folder, method=method))
    saved = folder / {"lora": "adapter", "full": "model", "top2": "delta.safetensors"}[method]
    message = f"the loss is not finite at update 8; the state after update 6 is saved in {saved}; lower the learning"
    assert str(failed.value).startswith(message)
    written = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (written["interrupted"], written["steps"], written["validation_loss"]["step"]) == (True, 7, 6)
    assert written["failed"].startswith("the loss is not finite at update 8")
    assert saved.exists()
    if method == "lora":
        adapter = formats.load(formats.adapter_place(folder))
        assert adapter.meta["scores"]["validation_loss"] == written["validation_loss"]["after"]
    assert cli._report(failed.value) == 2


def test_a_loss_that_is_not_finite_before_anything_was_better_keeps_nothing(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = run_module.fit
    monkeypatch.setattr(
        run_module, "fit", lambda model, *rest, **more: exploding(model, 2) and fit(model, *rest, **more)
    )
    with pytest.raises(TrainingError, match="at update 2; nothing is saved, since no validation had a better loss"):
        run(settings(base, data, tmp_path / "run"))
    assert not (tmp_path / "run" / "adapter").exists()


def test_runs_that_start_together_have_names_of_their_own(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unnamed = settings(base, data, tmp_path / "x", max_steps=1).model_copy(update={"output": None})
    name = f"{data.name}-lora"
    with run_folder(unnamed) as first, run_folder(unnamed) as second:  # before either has loaded its model
        one, two = first.path, second.path
        assert (one.as_posix(), two.as_posix()) == (f"runs/{name}-1", f"runs/{name}-2")
        assert Path(run(unnamed)["run"]).as_posix() == f"runs/{name}-3"
        (two / "run.json").write_text("{}")
    assert not one.exists()  # nothing was written to it
    assert two.exists()
    with pytest.raises(SettingsError, match="no_such_layer"):
        run(unnamed.model_copy(update={"targets": ("no_such_layer",)}))
    assert sorted(path.name for path in Path("runs").iterdir()) == [f"{name}-2", f"{name}-3"]


def test_the_probe_changes_no_bit_of_what_is_learnt(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_choice, "SHORT", 0)
    hashes = {}
    for seconds in ({"fp32": 1.0, "bf16": 2.0}, {"fp32": 2.0, "bf16": 1.0}, {"fp32": 3.0, "bf16": 3.0, "int8": 1.0}):
        taken = min(seconds, key=seconds.__getitem__)
        if taken == "int8" and not int8.supported():
            continue
        measure = planning.precision_seconds
        with monkeypatch.context() as patched:
            patched.setenv("TAILORA_CACHE", str(tmp_path / taken / "cache"))
            # The real measurement is made, and its result replaced.
            patched.setattr(planning, "precision_seconds", lambda *given, s=seconds, m=measure: (m(*given), s)[1])
            result = run(settings(base, data, tmp_path / taken / "auto", precision="auto", epochs=1, dropout=0.1))
        assert result["account"]["precision"] == taken
        assert result["account"]["choice"] == {
            "precision": taken,
            "reason": "timed",
            "seconds": seconds,
            "nodes": result["account"]["choice"]["nodes"],
        }
        run(settings(base, data, tmp_path / taken / "set", precision=taken, epochs=1, dropout=0.1))
        one, two = (formats.load(tmp_path / taken / name / "adapter") for name in ("auto", "set"))
        assert one.content_hash == two.content_hash
        hashes[taken] = one.content_hash
    assert len(set(hashes.values())) == len(hashes)


def test_the_choice_is_announced(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings(base, data, tmp_path / "short", precision="auto", max_steps=1))
    assert "precision: fp32 (too short a run to time others)" in capsys.readouterr().err
    monkeypatch.setattr(precision_choice, "SHORT", 0)
    monkeypatch.setattr(planning, "precision_seconds", lambda *_: {"fp32": 0.004, "bf16": 0.002})
    result = run(settings(base, data, tmp_path / "timed", precision="auto", max_steps=1))
    said = " ".join(capsys.readouterr().err.split())
    assert "precision: bf16 (timed: an update takes fp32 4 ms, bf16 2 ms)" in said
    choice = result["account"]["choice"]
    assert result["account"]["estimate"]["seconds"] == 0.002 * result["account"]["nodes"] / choice["nodes"]


@pytest.mark.skipif(not int8.supported(), reason="this CPU has no AVX2 instructions")
def test_int8_is_measured_on_the_exact_base_too_and_memory_counts_it(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    exact, peak = run_module._exact_loss, run_module.peak_rss
    monkeypatch.setattr(run_module, "_exact_loss", lambda *given: order.append("exact") or exact(*given))  # type: ignore[func-returns-value]
    monkeypatch.setattr(run_module, "peak_rss", lambda: order.append("peak") or peak())  # type: ignore[func-returns-value]
    losses = run(settings(base, data, tmp_path / "run", precision="int8", epochs=1))["validation_loss"]
    assert losses["exact"] == pytest.approx(losses["after"], abs=0.05)
    assert order == ["exact", "peak"]


def test_int8_runs_on_the_cpu_of_a_machine_with_a_gpu(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not int8.supported():
        pytest.skip("this CPU has no AVX2 instructions")
    monkeypatch.setattr(precision, "choose_device", lambda device: "cuda" if device == "auto" else device)
    result = run(settings(base, data, tmp_path / "run", precision="int8", device="auto", max_steps=2))
    assert (result["account"]["precision"], result["account"]["device"]) == ("int8", "cpu")


def test_the_adapter_keeps_how_its_data_was_read(base: Path, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("key,name,note,ref\n1,Cup,x,A cup.\n2,Mug,y,A mug.\n", encoding="utf-8")
    columns = {"text": "ref", "facts": ["name"]}
    run(TrainSettings(data=str(table), columns=columns, base=str(base), max_steps=1, output=tmp_path / "run"))
    meta = json.loads((tmp_path / "run" / "adapter" / "tailora.json").read_text(encoding="utf-8"))["meta"]
    assert meta["reading"] == {"format": None, "columns": columns, "language": None}
    assert TrainedReading.of_meta(meta) == TrainedReading(
        columns={"text": "ref", "facts": ("name",)}, attributes=frozenset({"name"})
    )


@pytest.mark.parametrize("seed", [-(2**64), -1, 2**64, 10**30])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    torch.Generator().manual_seed(TrainSettings(data="restaurants", seed=seed).generator_seed)
