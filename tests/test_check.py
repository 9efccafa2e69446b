"""The check that an architecture honours trees, the estimates, and the `lint` verb."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from networks import gpt2, llama
from tailora.data.check import LintSettings
from tailora.data.check import run as check_data
from tailora.data.examples import Example
from tailora.errors import CheckError, ModelError, SettingsError
from tailora.train.check import check_trees
from tailora.train.estimate import seconds, workload
from tailora.train.settings import TrainSettings

EXAMPLES = [Example("1", (1, 2, 3), (4, 5, 6)), Example("1", (1, 2, 3), (4, 7)), Example("2", (8, 2), (9, 10, 11))]


@pytest.mark.parametrize("family", [gpt2, llama])
def test_known_families_pass(family: object) -> None:
    check_trees(family(), EXAMPLES)  # type: ignore[operator]


def test_scaled_logits_are_refused() -> None:
    model = gpt2()

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model
            self.config = model.config
            self.base_model = model.base_model
            self.dtype = model.dtype

        def get_output_embeddings(self) -> nn.Module:
            return self.inner.get_output_embeddings()

        def set_attn_implementation(self, name: str) -> None:
            self.inner.set_attn_implementation(name)

        def forward(self, **inputs: torch.Tensor) -> object:
            out = self.inner(**inputs)
            out.logits = out.logits * 5
            return out

    with pytest.raises(ModelError, match=r"Scaled: trees give a loss of .* its own forward pass gives"):
        check_trees(Scaled(), EXAMPLES)


def test_workload_counts_every_scored_node() -> None:
    work = workload(EXAMPLES, TrainSettings(data="restaurants", batch_size=2, tokens_per_pass=5))
    assert work.updates == 2
    assert work.scored <= work.nodes <= sum(len(e) - 1 for e in EXAMPLES)
    assert work.largest_pass <= 5
    assert seconds(1e9, "fp32", "cpu") == pytest.approx(0.1 * seconds(1e10, "fp32", "cpu"), rel=2)


def test_data_verb_counts_and_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text('{"facts": {"name": "Ada"}, "text": "Bob."}\n{"facts": {"name": "Cy"}, "text": "Cy."}\n', "utf-8")
    result = check_data(LintSettings(data=str(file), allow=("unsaid value",)))
    assert (result["records"], result["texts"]) == (2, 2)
    assert result["findings"] == {"unsaid value": 1}
    err = capsys.readouterr().err
    assert "all: 2 records, 2 texts" in err
    assert re.search(r"0-9 █+ 2", err)
    assert re.search(r"│ unsaid value │ +1 │ no text of the record", err)
    with pytest.raises(CheckError, match=r"1 findings \(unsaid value: 1\)") as failed:
        check_data(LintSettings(data=str(file)))
    assert failed.value.result == result
    with pytest.raises(SettingsError, match="no finding called 'typo'"):
        LintSettings(data=str(file), allow=("typo",))
