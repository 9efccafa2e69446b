"""The quickstart on a few records: it learns, and merging changes no text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tailora.commands.quickstart import QuickstartSettings, run
from tailora.data import records as record_files
from tailora.experiments import quickstart as demonstration


def test_quickstart_learns_and_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With some of the test records; the slow test has all."""
    read = record_files.read
    monkeypatch.setattr(record_files, "read", lambda *given, **more: read(*given, **more)[:16])
    result = run(QuickstartSettings(output=tmp_path / "run", epochs=1, limit=150))
    assert result["validation_loss"]["after"] < 0.5 * result["validation_loss"]["before"]
    assert result["after"]["bleu"] > result["before"]["bleu"] + 10
    assert result["merged"]["equal_texts"] == result["records"]
    assert result["merged"]["largest_logit_difference"] < 1e-3
    assert (tmp_path / "run" / "loss.svg").exists()


def test_an_interrupt_after_the_training_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demonstration, "write", interrupted)
    output = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match=rf"^interrupted; the trained adapter is in {re.escape(str(output))}"):
        run(QuickstartSettings(output=output, epochs=1, limit=10))
    assert (output / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_whole_quickstart_lifts_bleu_from_under_20_to_over_60(tmp_path: Path) -> None:
    result = run(QuickstartSettings(output=tmp_path / "run"))
    assert result["before"]["bleu"] < 20
    assert result["after"]["bleu"] > 60
    assert result["after"]["slot_error_percent"] < result["before"]["slot_error_percent"] / 4
    assert result["merged"]["equal_texts"] == result["records"]
