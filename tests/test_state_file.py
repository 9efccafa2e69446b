"""The file of a saved state: read as it was written, or refused, whatever byte of it is damaged."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tailora.training import state_file
from tailora.training.resume import Job, ResumeFolder
from tailora.training.state_file import RunState, UnusableStateError, read, write

JOB: dict[str, Any] = {"settings": {"data": "résumé"}, "steps": 9}


def state_of(step: int = 3) -> RunState:
    generator = torch.Generator().manual_seed(step)

    def tensors(*shape: int) -> dict[str, Tensor]:
        return {f"layer.{n}.weight": torch.randn(*shape, generator=generator) for n in range(2)}

    return RunState(
        step=step,
        progress={"final_loss": 1.5, "best_step": 2, "warnings": ["é"]},
        fruitless=1,
        learning=tensors(3, 4),
        best={name: tensor.bfloat16() for name, tensor in tensors(3, 4).items()},
        average=tensors(2, 0),
        optimizer={0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(5)}, 11: {"exp_avg": torch.zeros(2)}},
        generators={"torch": torch.arange(16, dtype=torch.uint8)},
        metrics_bytes=70,
        metrics_digest="ab",
    )


def plain(state: RunState) -> Any:
    """A state as values that can be compared."""

    def converted(value: Any) -> Any:
        if isinstance(value, Tensor):
            return str(value.dtype), value.tolist()
        return {name: converted(part) for name, part in value.items()} if isinstance(value, dict) else value

    return {field.name: converted(getattr(state, field.name)) for field in dataclasses.fields(state)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "state", state_of(), JOB)
    return tmp_path / "state"


def test_a_state_is_read_as_it_was_written(path: Path) -> None:
    job, state = read(path)
    assert job == JOB
    assert plain(state) == plain(state_of())
    write(path, dataclasses.replace(state_of(), best=None, average=None), {})
    job, state = read(path)
    assert (job, state.best, state.average) == ({}, None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which files are mapped")
def test_a_state_is_read_apart_from_its_file_where_tensors_would_lock_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "_IS_LOCKED_BY_TENSORS", True)  # as on Windows
    _, state = read(path)
    assert str(path) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert plain(state) == plain(state_of())


def test_no_damaged_byte_changes_a_value(path: Path) -> None:
    """Each byte of the file once, with a flipped bit, zero, or another byte."""
    sound, wanted = path.read_bytes(), plain(state_of())
    refused = 0
    for place in range(len(sound)):
        for byte in {sound[place] ^ 1 << place % 8, 0x31} - {sound[place]}:
            path.write_bytes(sound[:place] + bytes([byte]) + sound[place + 1 :])
            try:
                job, state = read(path)
            except UnusableStateError:
                refused += 1
            else:
                assert (job, plain(state)) == (JOB, wanted), place
    assert refused > len(sound)


def test_a_file_that_ends_early_or_late_is_refused(path: Path) -> None:
    sound = path.read_bytes()
    damaged = [sound[:length] for length in range(len(sound))] + [sound + b"\0", sound + sound]
    for place in range(0, len(sound), 512):  # a sector that was never written
        damaged.append(sound[:place] + bytes(len(sound[place : place + 512])) + sound[place + 512 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UnusableStateError):
            read(path)


@pytest.mark.parametrize("change", ["values", "names", "a tensor is missing", "the rest", "checksum", "version"])
def test_a_sound_file_with_other_content_is_refused(path: Path, change: str) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    one, two = "learning.layer.0.weight", "learning.layer.1.weight"
    if change == "values":
        tensors[one] = tensors[one] + 1
    elif change == "names":
        tensors[one], tensors[two] = tensors[two], tensors[one]
    elif change == "a tensor is missing":
        del tensors[one]
    elif change == "the rest":
        metadata["state"] = json.dumps({**json.loads(metadata["state"]), "step": 5})
    elif change == "checksum":
        del metadata["sha256"]
    elif change == "version":
        metadata = {"state": json.dumps({**json.loads(metadata["state"]), "version": 1})}
    save_file(tensors, path, metadata)
    with pytest.raises(UnusableStateError):
        read(path)


def test_reasons(tmp_path: Path) -> None:
    with pytest.raises(UnusableStateError, match="there is no such file"):
        read(tmp_path / "none")
    with pytest.raises(UnusableStateError, match="cannot be read"):
        read(tmp_path)


def test_states_after_the_one_that_is_saved_are_removed(tmp_path: Path) -> None:
    """A run that continued from an earlier state must not continue from a later one the next time."""
    folder, job = ResumeFolder(tmp_path), Job({}, {}, "")
    folder.path.mkdir()
    for step in (3, 4, 9):
        folder.save(job, state_of(step))
    assert [path.name[6:15] for path in folder.states()] == ["000000009", "000000004"]
    folder.states()[0].write_bytes(b"damaged")
    loaded = folder.load()
    assert loaded is not None
    assert (loaded.state.step, loaded.problems) == (4, ("state-000000009.safetensors is damaged",))
    folder.save(job, state_of(5))
    assert [path.name[6:15] for path in folder.states()] == ["000000005", "000000004"]
