"""The quickstart on a few records: it learns, and merging changes no text."""

from __future__ import annotations

from pathlib import Path

from tailora.quickstart import QuickstartSettings, run


def test_quickstart_learns_and_merges(tmp_path: Path) -> None:
    result = run(QuickstartSettings(output=tmp_path / "run", epochs=1, limit=150))
    assert result["validation_loss"]["after"] < 0.5 * result["validation_loss"]["before"]
    assert result["after"]["bleu"] > result["before"]["bleu"] + 10
    assert result["merged"]["equal_texts"] == result["records"]
    assert result["merged"]["largest_logit_difference"] < 1e-3
    assert (tmp_path / "run" / "loss.svg").exists()
