"""What `families` and docs/models.md say of training and the backends is what these do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from bases import save_adapter, save_tokenizer
from networks import network
from tailora.adapters.config import LoraConfig
from tailora.core.errors import ModelError
from tailora.data.examples import Example
from tailora.engine.decoding import Decoding
from tailora.families import FAMILIES
from tailora.inference.attached import load_adapted
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate
from tailora.models.load import load_base, quiet_transformers
from tailora.training.trees.check import check_trees

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
PROMPT = (5, 6, 7, 8)


def saved(folder: Path, model_type: str) -> Any:
    """Write a tiny random network of a family with a tokenizer, and give it."""
    model = network(model_type, vocab_size=save_tokenizer(folder), initializer_range=0.2).eval()
    with quiet_transformers():
        model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_trained_where_trees_compute_its_own_loss(tmp_path: Path, model_type: str) -> None:
    saved(tmp_path, model_type)
    examples = [Example("1", PROMPT, (9, 10, 11, 0)), Example("1", PROMPT, (9, 12, 0))]
    if FAMILIES[model_type].trained:
        check_trees(load_base(str(tmp_path)).model, examples)
    else:
        with pytest.raises(ModelError):
            check_trees(load_base(str(tmp_path)).model, examples)


@pytest.mark.parametrize("backend", ["openvino", "torch"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_backend_runs_the_families_that_it_supports(
    tmp_path: Path, model_type: str, backend: Literal["openvino", "torch"]
) -> None:
    model = saved(tmp_path / "base", model_type)
    if backend == "openvino" and not FAMILIES[model_type].openvino:
        with pytest.raises(ModelError):
            start_engine(resolve_models(str(tmp_path / "base"), {}), backend=backend, precision="fp32", device="cpu")
        return
    adapter = save_adapter(tmp_path / "adapter", str(tmp_path / "base"))
    setup = resolve_models(str(tmp_path / "base"), {"a": adapter})
    running = start_engine(setup, backend=backend, precision="fp32", device="cpu")
    bare, adapted = generate(running, [Prompt(PROMPT), Prompt(PROMPT, "a")], Decoding(max_new_tokens=6))
    with quiet_transformers():
        whole = model.generate(torch.tensor([PROMPT]), max_new_tokens=6, do_sample=False, pad_token_id=0)
    wanted = whole[0, len(PROMPT) :].tolist()
    assert list(bare.token_ids) == wanted[: len(bare.token_ids)]
    assert adapted.token_ids != bare.token_ids


@pytest.mark.parametrize("model_type", ["llama", "gemma", "gemma2", "gemma3_text"])
def test_an_adapter_of_the_embedding_computes_the_same_in_a_slot(tmp_path: Path, model_type: str) -> None:
    """Gemma multiplies what it looks up, and so the update."""
    saved(tmp_path / "base", model_type)
    config = LoraConfig(rank=4, alpha=8, targets=("embedding", "attention"))
    adapter = save_adapter(tmp_path / "adapter", str(tmp_path / "base"), config=config)
    setup = resolve_models(str(tmp_path / "base"), {"a": adapter})
    running = start_engine(setup, backend="torch", precision="fp32", device="cpu")
    (text,) = generate(running, [Prompt(PROMPT, "a")], Decoding(max_new_tokens=6, ignore_end=True))
    model = load_adapted(adapter, str(tmp_path / "base"), dtype=torch.float32).base.model
    with torch.inference_mode():
        logprobs = model(torch.tensor([[*PROMPT, *text.token_ids]])).logits[0].log_softmax(-1)
    places = enumerate(text.token_ids, start=len(PROMPT) - 1)
    assert text.logprobs == pytest.approx([float(logprobs[place, token]) for place, token in places], abs=1e-3)


def test_the_page_has_the_families() -> None:
    rows = re.findall(r"^\| ([^|`]+) \| `(\w+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    mark: dict[bool, str] = {True: "yes", False: "–"}
    wanted = [
        (
            family.name,
            kind,
            " | ".join(mark[x] for x in (family.trained, family.openvino, True, bool(family.llama_cpp))),
        )
        for kind, family in FAMILIES.items()
    ]
    assert rows == wanted
