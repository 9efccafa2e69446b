"""The README.md of an adapter folder, and what other programs take from the folder about its base."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import peft as hf
import pytest
import yaml

from adapters import WARNINGS_OF_PEFT, small
from tailora.adapters.formats import peft

pytestmark = WARNINGS_OF_PEFT


NAMES_AND_HUB_IDS = [
    ("gpt2", "openai-community/gpt2"),
    ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ("tiny", None),
    ("someone/model", "someone/model"),
    ("someone/model@v1", "someone/model"),
    ("gpt2@refs/pr/2", "openai-community/gpt2"),
    ("/models/mine", "/models/mine"),
]


@pytest.mark.parametrize(("name", "wanted"), NAMES_AND_HUB_IDS)
def test_other_programs_find_the_base_and_the_kind_of_task(tmp_path: Path, name: str, wanted: str | None) -> None:
    scores = {"scores": {"validation_loss": 1.2345678, "bleu": 61.5}, "prompt_form": "paper"}
    peft.save(replace(small(), base_name=name, base_fingerprint="ab" * 32, meta=scores), tmp_path)
    config = hf.PeftConfig.from_pretrained(str(tmp_path))
    assert (config.base_model_name_or_path, config.task_type) == (wanted, "CAUSAL_LM")
    assert config.revision == (name.partition("@")[2] or None)
    assert re.fullmatch(r"\d+\.\d+\.\d+", config.peft_version)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata.get("base_model") == (None if name.startswith("/") else wanted)
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("peft", "text-generation")
    assert f"| Base fingerprint (SHA-256) | {'ab' * 32} |" in card
    assert "| validation_loss | 1.235 |\n| bleu | 61.5 |" in card
    assert "| Prompt form | paper |" in card


def test_a_name_does_not_break_out_of_the_card(tmp_path: Path) -> None:
    name = 'a: "b"\n---\n# x | <script>'
    peft.save(replace(small(), base_name=name), tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "base_model" not in yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert "<script>" not in card.split("\n---\n", 1)[1]
