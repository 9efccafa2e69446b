"""OpenAI's API, asked by its own client: texts equal the engine's, streams equal answers, errors are its errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from bases import save_adapter, save_base, save_sentencepiece
from live_server import get, is_idle, save_models, served, settings_for, wait_until
from tailora.adapters.config import LoraConfig
from tailora.commands.generate import GenerateSettings
from tailora.core.flags import from_arguments, parser_for
from tailora.engine.decoding import Decoding
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate
from tailora.serve.server import Server

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


def counts(answer: Any) -> tuple[int, int, int]:
    """Token counts without those of the cache, which grows with each request."""
    return answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens


def joined(words: list[str]) -> str:
    """The text of tokens as the completions API tells them."""
    parts = [
        bytes.fromhex(word.removeprefix("bytes:").replace("\\x", "")) if word.startswith("bytes:") else word.encode()
        for word in words
    ]
    return b"".join(parts).decode(errors="replace")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with served(settings_for(models, max_prompt=60)) as made:
        yield made
        wait_until(lambda: is_idle(made))


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def test_models_are_the_base_and_its_adapters(client: openai.OpenAI) -> None:
    found = {model.id: model.to_dict() for model in client.models.list()}
    assert list(found) == ["base", "one", "two"]
    assert [found[name]["parent"] for name in found] == [None, "base", "base"]
    assert client.models.retrieve("two").id == "two"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("none")


PENALISED: tuple[dict[str, Any], ...] = (
    {"presence_penalty": 2.0},
    {"frequency_penalty": -2.0},
    {"frequency_penalty": 1.5, "logit_bias": {"70": 4.0, "71": -100}},
)


@pytest.mark.parametrize("options", PENALISED)
def test_penalties_and_biases_reach_the_engine(client: openai.OpenAI, models: Path, options: dict[str, Any]) -> None:
    """In completions, whole and streamed, in chats, in records and on the command line's settings."""
    running = start_engine(
        resolve_models(str(models / "base"), {"one": models / "one"}), precision="fp32", cache_tokens=1024
    )
    prompt = "name : Blue"
    bias = tuple((int(token), value) for token, value in options.get("logit_bias", {}).items())
    ways = Decoding(max_new_tokens=12, **{**options, "logit_bias": bias})
    tokens = tuple(running.tokenizer.encode(prompt))
    (expected,) = generate(running, [Prompt(tokens, "one")], ways)
    (plain,) = generate(running, [Prompt(tokens, "one")], Decoding(max_new_tokens=12))
    assert expected.text != plain.text
    made = client.completions.create(model="one", prompt=prompt, **GREEDY, **options)
    assert made.choices[0].text.strip() == expected.text
    parts = client.completions.create(model="one", prompt=prompt, stream=True, **GREEDY, **options)
    assert "".join(part.choices[0].text for part in parts).strip() == expected.text
    beams = client.completions.create(
        model="one", prompt=prompt, n=2, max_tokens=12, extra_body={"use_beam_search": True}, **options
    )
    (searched,) = generate(running, [Prompt(tokens, "one")], replace(ways, num_beams=2, num_candidates=2))
    assert [choice.text.strip() for choice in beams.choices] == [each.text for each in searched.candidates]
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    chats = [client.chat.completions.create(model="one", messages=messages, **GREEDY, **each) for each in ({}, options)]
    assert chats[0].choices[0].message.content != chats[1].choices[0].message.content
    body = {"model": "one", "facts": {"name": "Blue"}, "max_tokens": 12}
    answers = [post_records(client, {**body, **each}) for each in ({}, options)]
    assert answers[0] != answers[1]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if name != "logit_bias"]
    flags += [f"--logit-bias={token}={value}" for token, value in options.get("logit_bias", {}).items()]
    parser = parser_for(GenerateSettings, prog="generate", description="")
    arguments = ["--base=tiny", "--record=name : Blue", "--max-new-tokens=12", *flags]
    settings, _ = from_arguments(GenerateSettings, parser, arguments)
    assert settings.decoding() == ways


def post_records(client: openai.OpenAI, body: dict[str, Any]) -> str:
    answer = httpx.post(f"{client.base_url}records", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"][0]["text"])


def test_texts_are_the_engines(client: openai.OpenAI, models: Path) -> None:
    adapters = {"one": models / "one", "two": models / "two"}
    running = start_engine(resolve_models(str(models / "base"), adapters), precision="fp32", cache_tokens=1024)
    prompt = "name : Blue"
    ids = tuple(running.tokenizer.encode(prompt))
    decoding = Decoding(max_new_tokens=12)
    names = (None, "one", "two")
    made = generate(running, [Prompt(ids, name) for name in names], decoding)
    wanted = [running.tokenizer.decode(each.token_ids) for each in made]
    got = [client.completions.create(model=name or "base", prompt=prompt, **GREEDY) for name in names]
    assert [answer.choices[0].text for answer in got] == wanted
    assert len(set(wanted)) == 3
    by_ids = client.completions.create(model="one", prompt=list(ids), **GREEDY)
    assert by_ids.choices[0].text == wanted[1]


def test_a_completion_reports_its_token_counts(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="one", prompt="name :", temperature=0)
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 16, 22)
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_has_the_same_text(client: openai.OpenAI) -> None:
    for more in ({}, {"n": 3, "temperature": 1, "seed": 5}, {"n": 2}, {"echo": True}, {"stop": ["e", "xq"]}):
        options = {**GREEDY, "max_tokens": 30, **more}
        whole = client.completions.create(model="two", prompt=["abc", "food : y"], **options)
        texts = [""] * len(whole.choices)
        reasons: list[str | None] = [None] * len(texts)
        last: Any = None
        chunks = client.completions.create(
            model="two", prompt=["abc", "food : y"], stream=True, stream_options={"include_usage": True}, **options
        )
        for chunk in chunks:
            last = chunk
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        assert texts == [choice.text for choice in whole.choices]
        assert reasons == [choice.finish_reason for choice in whole.choices]
        assert counts(last) == counts(whole)


def test_a_stream_comes_piece_by_piece(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="one", prompt="abc", stream=True, logprobs=0, **GREEDY))
    assert [len(chunk.choices[0].logprobs.tokens or ()) for chunk in chunks if chunk.choices[0].logprobs] == [1] * 12


def test_n_and_seed(client: openai.OpenAI) -> None:
    def texts(**options: Any) -> list[str]:
        made = client.completions.create(model="base", prompt="abc", max_tokens=8, **options)
        return [choice.text for choice in made.choices]

    first = texts(n=4, seed=3)
    assert len(set(first)) > 1
    assert texts(n=4, seed=3) == first
    assert texts(n=4, seed=99) != first
    assert texts(n=4) != texts(n=4)
    assert len(set(texts(n=3, temperature=0))) == 1


def test_best_of_gives_the_likeliest(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "base", "prompt": "abc", "max_tokens": 8, "seed": 1, "logprobs": 0}
    all_six = client.completions.create(n=6, **options).choices
    best = client.completions.create(n=2, best_of=6, **options)

    def mean(choice: Any) -> float:
        values = choice.logprobs.token_logprobs
        return sum(values) / len(values)  # type: ignore[no-any-return]

    wanted = sorted(all_six, key=mean, reverse=True)[:2]
    assert [choice.text for choice in best.choices] == [choice.text for choice in wanted]
    assert best.usage is not None
    shown = sum(len(choice.logprobs.tokens or ()) for choice in best.choices if choice.logprobs)
    assert best.usage.completion_tokens > shown


def test_logprobs_add_up_with_the_text(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "one", "prompt": "abc", **GREEDY, "logprobs": 3}
    whole = client.completions.create(**options).choices[0]
    result = whole.logprobs
    assert result is not None
    assert result.tokens is not None
    assert result.token_logprobs is not None
    assert result.top_logprobs is not None
    assert joined(result.tokens) == whole.text
    ascii_first = [word.isascii() and not word.startswith("bytes:") for word in result.tokens].index(False)
    assert (result.text_offset or [])[: ascii_first + 1] == list(range(ascii_first + 1))
    for word, value, top in zip(result.tokens, result.token_logprobs, result.top_logprobs, strict=True):
        assert len(top) == 3
        assert top[word] == value == max(top.values()) < 0
    tokens: list[str] = []
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            tokens += choice.logprobs.tokens or [] if choice.logprobs else []
    assert tokens == result.tokens
    no_alternatives = client.completions.create(**{**options, "logprobs": 0}).choices[0].logprobs
    assert no_alternatives is not None
    assert no_alternatives.top_logprobs is None


def test_stop_strings_end_a_text_before_them(client: openai.OpenAI) -> None:
    free = client.completions.create(model="one", prompt="abc", **GREEDY).choices[0].text
    stop = free[5:7]
    cut = client.completions.create(model="one", prompt="abc", stop=stop, logprobs=1, **GREEDY).choices[0]
    assert cut.text == free[: free.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.logprobs is not None
    assert joined(cut.logprobs.tokens or []) == cut.text


def test_echo_gives_the_prompt_back(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="one", prompt="abc", **GREEDY).choices[0].text
    assert client.completions.create(model="one", prompt="abc", echo=True, **GREEDY).choices[0].text == "abc" + plain
    nothing = client.completions.create(model="one", prompt=["abc", "de"], echo=True, max_tokens=0, n=2)
    assert [choice.text for choice in nothing.choices] == ["abc", "abc", "de", "de"]


def test_a_prompt_is_scored_as_it_would_have_been_written(client: openai.OpenAI) -> None:
    written = client.completions.create(model="one", prompt="abc", logprobs=2, **GREEDY).choices[0]
    assert written.logprobs is not None
    lengths: list[dict[str, Any]] = [{"max_tokens": 0}, {"max_tokens": 3, "temperature": 0}]
    for more in lengths:
        prompt = [*b"abc"]
        ids = client.completions.create(model="one", prompt="abc", logprobs=0, echo=True, max_tokens=0).choices[0]
        assert ids.text == "abc"
        whole = client.completions.create(model="one", prompt="abc" + "de", echo=True, logprobs=2, **more).choices[0]
        result = whole.logprobs
        assert result is not None
        assert result.tokens is not None
        assert result.token_logprobs is not None
        assert result.top_logprobs is not None
        assert joined(result.tokens) == whole.text
        assert result.tokens[: len(prompt)] == ["a", "b", "c"]
        assert result.token_logprobs[0] is result.top_logprobs[0] is None
        assert all(value is not None and value < 0 for value in result.token_logprobs[1:])
        assert [len(top) for top in result.top_logprobs[1:]] == [2] * (len(result.tokens) - 1)
        assert (result.text_offset or [])[:5] == [0, 1, 2, 3, 4]
        forced = {written.logprobs.tokens[0]} if written.logprobs.tokens else set()
        assert set(result.top_logprobs[3]) >= forced  # what may follow "abc" is the same, scored or written


def test_a_scored_prompt_has_one_more_entry_for_the_token_after_it(client: openai.OpenAI, server: Server) -> None:
    """As lm-eval-harness counts: `token_logprobs[context:-1]`, whatever the token after the prompt is."""
    asked: dict[str, Any] = {"model": "base", "max_tokens": 1, "temperature": 0}
    prompts = [[first, second] for second in range(64) for first in range(0, 256, 4)]
    ended: list[list[int]] = []
    while not ended:
        batch, prompts = prompts[:256], prompts[256:]
        answer = client.completions.create(prompt=batch, **asked)
        ended = [batch[choice.index] for choice in answer.choices if choice.finish_reason == "stop"]
    for prompt in (ended[0], [*b"ab"]):
        for count in (0, 2):
            result = client.completions.create(prompt=prompt, echo=True, logprobs=count, **asked).choices[0].logprobs
            assert result is not None
            for values in (
                result.tokens,
                result.token_logprobs,
                result.text_offset,
                *([result.top_logprobs] if count else ()),
            ):
                assert len(values or ()) == len(prompt) + 1
    plain = client.completions.create(prompt=ended[0], logprobs=0, **asked).choices[0]
    assert plain.text == ""
    assert plain.logprobs is not None
    assert plain.logprobs.tokens == []


def test_beams_are_the_engines(client: openai.OpenAI) -> None:
    made = client.completions.create(model="two", prompt="abc", max_tokens=6, n=3, extra_body={"use_beam_search": True})
    streamed = client.completions.create(
        model="two", prompt="abc", max_tokens=6, n=3, stream=True, extra_body={"use_beam_search": True}
    )
    texts = {choice.index: choice.text for chunk in streamed for choice in chunk.choices}
    assert [choice.text for choice in made.choices] == [texts[n] for n in range(3)]
    assert len({choice.text for choice in made.choices}) == 3


def test_chat_follows_the_template(client: openai.OpenAI, server: Server) -> None:
    messages: Any = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    answer = client.chat.completions.create(model="one", messages=messages, **GREEDY)
    tokenizer = server.service.tokenizer
    prompt = [tokenizer.eos_id, *tokenizer.encode("system: be brief\n"), tokenizer.eos_id]
    prompt += tokenizer.encode("user: hi\nassistant:")
    plain = client.completions.create(model="one", prompt=prompt, **GREEDY)
    assert answer.choices[0].message.content == plain.choices[0].text
    assert counts(answer) == counts(plain)
    pieces = client.chat.completions.create(model="one", messages=messages, stream=True, **GREEDY)
    deltas = [choice.delta for chunk in pieces for choice in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == answer.choices[0].message.content


def test_chat_logprobs(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "two", "messages": [{"role": "user", "content": "hi"}], **GREEDY}
    asked |= {"logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs is not None
    content = whole.logprobs.content or []
    assert b"".join(bytes(token.bytes or ()) for token in content).decode(errors="replace") == whole.message.content
    assert all(token.top_logprobs[0].token == token.token and len(token.top_logprobs) == 2 for token in content)
    streamed = [
        token.token
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content or ()
    ]
    assert streamed == [token.token for token in content]


def test_only_the_start_of_a_prompt_may_name_a_special_token(client: openai.OpenAI, server: Server) -> None:
    tokenizer, end = server.service.tokenizer, "<|endoftext|>"
    for text, ids in (
        (f"{end}abc", [tokenizer.eos_id, *tokenizer.encode("abc")]),
        (end, [tokenizer.eos_id]),
        ("", [tokenizer.eos_id]),
        (f"a{end}", tokenizer.encode(f"a{end}")),
    ):
        spelt = client.completions.create(model="base", prompt=text, **GREEDY)
        by_ids = client.completions.create(model="base", prompt=ids, **GREEDY)
        assert spelt.choices == by_ids.choices
        assert counts(spelt) == counts(by_ids)


def test_special_tokens_in_a_message_are_text(client: openai.OpenAI) -> None:
    def count(text: str) -> int:
        answer = client.chat.completions.create(model="one", messages=[{"role": "user", "content": text}], max_tokens=1)
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    assert count("<|endoftext|>") - count("") == len("<|endoftext|>")


def test_mistakes_are_openais_errors(client: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="none", prompt="x")
    assert missing.value.code == "model_not_found"
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"temperature": 3}, "temperature", "must be at most 2"),
        ({"max_tokens": 0}, "max_tokens", "only with echo"),
        ({"best_of": 1, "n": 2}, "best_of", "must be at least n"),
        ({"prompt": []}, "prompt", "the prompt is empty"),
        ({"prompt": [400_000]}, "prompt", "token ids must be from 0 to 256"),
        ({"prompt": "x" * 61}, "prompt", "61 tokens, and this server accepts 60"),
        ({"stop": [""]}, "stop", "contains an empty string"),
        ({"echo": True, "logprobs": 1, "stream": True}, "echo", "not streamed"),
        ({"extra_body": {"frobnicate": 1}}, "frobnicate", "this field does not exist; remove it"),
        ({"presence_penalty": 2.1}, "presence_penalty", "must be at most 2"),
        ({"frequency_penalty": -3}, "frequency_penalty", "must be at least -2"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "token 5 must be from -100 to 100"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is not a token id"),
        ({"logit_bias": {"07": 1}}, "logit_bias", "'07' is not a token id"),
        ({"logit_bias": {"257": 1}}, "logit_bias", "token id 257 does not exist"),
        ({"logit_bias": {str(n): 1 for n in range(301)}}, "logit_bias", "must have at most 300 entries"),
        ({"n": 3, "temperature": 0.5, "extra_body": {"use_beam_search": True}}, "", "beam search does not sample"),
    ]
    for options, param, result in wrong:
        with pytest.raises(openai.BadRequestError, match=result) as error:
            client.completions.create(**{"model": "one", "prompt": "x", **options})
        assert error.value.type == "invalid_request_error"
        assert (error.value.param or "") == param
    for body in (b"{", b"[]", b"", b'"x"', b'{"model": NaN}'):
        answer = httpx.post(
            f"{server.address}/v1/completions", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
    form = httpx.post(f"{server.address}/v1/completions", data={"model": "one"})
    assert "Content-Type: application/json" in form.json()["error"]["message"]
    nowhere, wrong_method = get(server, "/v1/nowhere"), get(server, "/v1/completions")
    assert nowhere.status_code == 404
    assert nowhere.json()["error"]["message"].startswith("/v1/nowhere does not exist; ")
    assert wrong_method.status_code == 405
    assert wrong_method.json()["error"]["message"].startswith("/v1/completions does not accept GET; ")
    assert wrong_method.headers["Allow"] == "POST"


def test_a_text_longer_than_the_context_is_refused_with_the_numbers(
    client: openai.OpenAI, server: Server, models: Path
) -> None:
    """As OpenAI and vLLM do; what is not asked for is lowered to what the context leaves."""
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    prompt = client.chat.completions.create(model="base", messages=messages, max_tokens=1).usage
    assert prompt is not None
    room = server.service.context - prompt.prompt_tokens
    asked: list[tuple[int, str, Any]] = [
        (93, "max_tokens", lambda most: client.completions.create(model="base", prompt="abc", max_tokens=most)),
        (
            room,
            "max_tokens",
            lambda most: client.chat.completions.create(model="base", messages=messages, max_tokens=most),
        ),
        (
            room,
            "max_completion_tokens",
            lambda most: client.chat.completions.create(model="base", messages=messages, max_completion_tokens=most),
        ),
    ]
    for most, field, ask in asked:
        assert ask(most).choices
        with pytest.raises(openai.BadRequestError, match="context length is 96 tokens, and the request needs 97"):
            ask(most + 1)
        with pytest.raises(openai.BadRequestError, match=f"lower {field} to {most} or less") as error:
            ask(500)
        assert (error.value.code, error.value.param) == ("context_length_exceeded", field)
    long = client.completions.create(model="base", prompt="x" * 58, extra_body={"ignore_eos": True}, temperature=0)
    assert counts(long) == (58, 16, 74)
    with served(settings_for(models, adapter=())) as other:
        near = openai.OpenAI(base_url=f"{other.address}/v1", api_key="none", max_retries=0)
        short = near.completions.create(model="base", prompt="x" * 90, extra_body={"ignore_eos": True}, temperature=0)
        assert (counts(short), short.choices[0].finish_reason) == ((90, 6, 96), "length")
        record = {"model": "base", "facts": {"name": "x" * 60}}
        assert post_records(near, record)
        answer = httpx.post(f"{near.base_url}records", json={**record, "max_tokens": 90}, timeout=60)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_tokens")


def test_usage_counts_what_the_prefix_cache_held(client: openai.OpenAI) -> None:
    prompt = "a prompt of more than one block of the cache"
    first, again, two = (
        client.completions.create(model="two", prompt=texts, n=2, max_tokens=2, seed=1)
        for texts in (prompt, prompt, [prompt, "x" + prompt])
    )
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in (first, again, two)]  # type: ignore[union-attr]
    assert cached == [0, 32, 32]
    chunks = client.completions.create(
        model="two", prompt=prompt, max_tokens=2, stream=True, stream_options={"include_usage": True}
    )
    assert list(chunks)[-1].usage.prompt_tokens_details.cached_tokens == 32  # type: ignore[union-attr]


def test_the_fingerprint_names_the_weights_and_how_they_run(client: openai.OpenAI, models: Path) -> None:
    def fingerprints(client: openai.OpenAI) -> list[str]:
        return [
            str(client.completions.create(model=model, prompt="abc", max_tokens=1).system_fingerprint)
            for model in ("base", "one", "two")
        ]

    own = fingerprints(client)
    assert len(set(own)) == 3
    assert own == fingerprints(client)
    chat = client.chat.completions.create(model="one", messages=[{"role": "user", "content": "x"}], stream=True)
    assert {chunk.system_fingerprint for chunk in chat} == {own[1]}
    with served(settings_for(models, precision="bf16")) as other:
        others = fingerprints(openai.OpenAI(base_url=f"{other.address}/v1", api_key="none", max_retries=0))
    assert not set(own) & set(others)


def test_an_adapters_rank_is_its_own(models: Path) -> None:
    """GPT-2 has one layer for query, key and value: branches on two slices of it take twice the rank of a slot."""
    save_adapter(models / "qv", str(models / "base"), config=LoraConfig(rank=3, targets=("attention.qv",)))
    with served(settings_for(models, adapter=(f"qv={models / 'qv'}", f"one={models / 'one'}"))) as server:
        found = {model["id"]: model for model in get(server, "/v1/models").json()["data"]}
    assert "rank" not in found["base"]
    assert [(found[name]["rank"], found[name]["slot_rank"]) for name in ("one", "qv")] == [(4, 4), (3, 6)]


def test_every_end_token_ends_a_text(tmp_path: Path) -> None:
    """A special one is no part of it; an ordinary one is, with its log-probability. `ignore_eos` ignores all."""
    save_base(tmp_path / "base", "llama", tokenizer=save_sentencepiece, ends=[2, *range(3, 300, 4)])
    asked: dict[str, Any] = {"model": "base", "prompt": "name", **GREEDY, "max_tokens": 30, "logprobs": 1}
    with served(settings_for(tmp_path, adapter=())) as made:
        client = openai.OpenAI(base_url=f"{made.address}/v1", api_key="none", max_retries=0)
        choice = client.completions.create(**asked).choices[0]
        chunks = list(client.completions.create(**asked, stream=True))
        free = client.completions.create(**asked, extra_body={"ignore_eos": True})
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    assert joined(choice.logprobs.tokens or []) == choice.text
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    streamed = [
        word for chunk in chunks if chunk.choices[0].logprobs for word in chunk.choices[0].logprobs.tokens or []
    ]
    assert streamed == choice.logprobs.tokens
    assert free.usage is not None
    assert (free.choices[0].finish_reason, free.usage.completion_tokens) == ("length", 30)


def test_a_model_whose_logits_are_not_finite_answers_with_an_error_and_the_others_go_on(models: Path) -> None:
    config = LoraConfig(rank=4, alpha=1e38, targets=("attention", "mlp"))
    save_adapter(models / "huge", str(models / "base"), config=config)
    with served(settings_for(models, adapter=(f"one={models / 'one'}", f"huge={models / 'huge'}"))) as server:
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)
        ways: list[dict[str, Any]] = [{}, {"n": 2, "extra_body": {"use_beam_search": True}}, {"logprobs": 1}]
        for options in ways:
            request: dict[str, Any] = {"model": "huge", "prompt": [70, 71], "max_tokens": 4, **options}
            with pytest.raises(openai.InternalServerError, match="adapter huge computes logits that are not finite"):
                client.completions.create(**request)
        with pytest.raises(openai.APIError, match="not finite"):
            list(client.completions.create(model="huge", prompt=[70, 71], max_tokens=4, stream=True))
        assert client.completions.create(model="one", prompt=[70, 71], **GREEDY).choices[0].text
        wait_until(lambda: is_idle(server))
