"""The bundled base model: small enough, sane, able to write any text down, and not trained on the sample tasks."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailora.data.tokenizer import Tokenizer
from tailora.models.load import load_base

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src" / "tailora" / "models" / "tiny"
TOKENIZER = Tokenizer.from_folder(FOLDER)


def test_fits_the_package() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 12_000_000


@given(st.text())
def test_every_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_config_fits_the_tokenizer() -> None:
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "gpt2"
    assert config["vocab_size"] == TOKENIZER.vocab_size == 4096
    assert config["eos_token_id"] == TOKENIZER.eos_id
    assert config["tie_word_embeddings"]
    assert {config[name] for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")} == {0.0}


def test_gives_finite_logits_at_its_full_length() -> None:
    base = load_base("tiny")
    ids = torch.arange(512)[None] % base.tokenizer.vocab_size
    with torch.no_grad():
        logits = base.model(input_ids=ids).logits
    assert logits.shape == (1, 512, 4096)
    assert torch.isfinite(logits).all()


def test_no_sample_task_is_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    kinds = {kind for domain in importlib.import_module("tiny_domains").DOMAINS for kind in domain.kinds}
    tasks = {path.name for path in (ROOT / "src" / "tailora" / "data" / "samples").iterdir() if path.is_dir()}
    plurals = kinds | {f"{kind}s" for kind in kinds}
    assert not plurals & tasks
    assert not kinds & {"restaurant", "pub", "bistro", "coffee shop", "café", "hotel"}
