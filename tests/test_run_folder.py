"""Which folder a run gets, and what stands in its way."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tailora.core.errors import SettingsError
from tailora.training.resume import ResumeFolder
from tailora.training.run_folder import run_folder
from tailora.training.settings import TrainSettings


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_an_empty_folder_is_taken_as_it_is(tmp_path: Path, resume: str) -> None:
    """A container mounts one, and a job's script creates one."""
    (tmp_path / "run").mkdir()
    with run_folder(TrainSettings(data="restaurants", output=tmp_path / "run", resume=resume)) as place:
        assert place.path == tmp_path / "run"
        (place.path / "run.json").write_text("{}", encoding="utf-8")
    with (
        pytest.raises(SettingsError, match="already exists"),
        run_folder(TrainSettings(data="restaurants", output=tmp_path / "run")),
    ):
        pass


@pytest.mark.parametrize("kind", ["file", "link"])
def test_runs_that_cannot_be_a_folder_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "file":
        Path("runs").touch()
    else:
        try:
            Path("runs").symlink_to(tmp_path / "unmounted")
        except OSError:
            pytest.skip("this system or user creates no links")
    with (
        pytest.raises(SettingsError, match=r"^runs: is not a folder; remove it, or name a run directory with --output"),
        run_folder(TrainSettings(data="restaurants")),
    ):
        pass


def test_a_run_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "restaurants-lora-1" / "resume").mkdir(parents=True)

    def refuse(folder: ResumeFolder) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder.path / "lock"))

    monkeypatch.setattr(ResumeFolder, "is_taken", refuse)
    with run_folder(TrainSettings(data="restaurants")) as place:
        assert place.path == Path("runs") / "restaurants-lora-2"
