"""A server whose texts are drafted gives what one without drafts gives: whole, streamed, with log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from live_server import save_models, served, settings_for
from tailora.adapters.formats import draft_file
from tailora.adapters.ngram_counts import draft_table
from tailora.engine.decoding import Decoding
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate

PROMPTS = ("name : Blue", "food : y", "abc")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter `one` has a table of what it writes itself, up to an end-of-text token."""
    models = save_models(tmp_path_factory.mktemp("models"))
    setup = resolve_models(str(models / "base"), {"one": models / "one"})
    running = start_engine(setup, precision="fp32", cache_tokens=1024)
    prompts = [tuple(running.tokenizer.encode(prompt)) for prompt in PROMPTS]
    made = generate(running, [Prompt(prompt, "one") for prompt in prompts], Decoding(max_new_tokens=30))
    pairs = [(prompt, text.token_ids) for prompt, text in zip(prompts, made, strict=True)] * 20
    draft_file.write(draft_table(pairs, setup.tokenizer.vocabulary_fingerprint), models / "one")
    return models


@pytest.fixture(scope="module", params=[0, 8], ids=["without", "with"])
def drafts(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def client(models: Path, drafts: int) -> Iterator[openai.OpenAI]:
    with served(settings_for(models, drafts=drafts)) as server:
        yield openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


ANSWERS: dict[str, Any] = {}


@pytest.mark.parametrize("more", [{}, {"stop": ["e", "xq"]}, {"temperature": 0.8, "seed": 4}, {"logit_bias": {"0": 6}}])
def test_answers_do_not_depend_on_drafts(client: openai.OpenAI, more: dict[str, Any]) -> None:
    options: dict[str, Any] = {"model": "one", "temperature": 0, "max_tokens": 30, "logprobs": 2, **more}
    answers = []
    for prompt in PROMPTS:
        whole = client.completions.create(prompt=prompt, **options).choices[0]
        parts = [part.choices[0] for part in client.completions.create(prompt=prompt, stream=True, **options)]
        assert "".join(part.text for part in parts) == whole.text
        assert parts[-1].finish_reason == whole.finish_reason
        assert whole.logprobs is not None
        expected, given = whole.logprobs, [part.logprobs for part in parts if part.logprobs is not None]
        count = len(expected.tokens or ())
        # A stream lists the tokens of a stop string as well.
        assert [token for each in given for token in each.tokens or ()][:count] == expected.tokens
        assert [place for each in given for place in each.text_offset or ()][:count] == expected.text_offset
        values = [value for each in given for value in each.token_logprobs or ()]
        assert values[:count] == pytest.approx(expected.token_logprobs)
        answers.append((whole.text, whole.finish_reason, whole.logprobs.tokens))
    assert ANSWERS.setdefault(str(more), answers) == answers


def test_drafts_are_counted(client: openai.OpenAI, drafts: int) -> None:
    client.completions.create(model="one", prompt=PROMPTS[0], max_tokens=30, temperature=0)
    text = httpx.get(str(client.base_url).replace("/v1/", "/metrics"), timeout=60).text
    lines = (line.split() for line in text.splitlines() if line.startswith("tailora_draft_tokens"))
    counts = {name: float(value) for name, value in lines}
    drafted, accepted = counts["tailora_draft_tokens_total"], counts["tailora_draft_tokens_accepted_total"]
    assert drafted >= accepted >= (20 if drafts else 0)
    assert drafts or drafted == 0
