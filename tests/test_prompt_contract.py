"""The prompt contract: training, verbs, HTTP routes and the documented vLLM request build the same token ids."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import openai
import pytest

from bases import save_base, save_sentencepiece, save_tokenizer
from live_server import post, served, settings_for
from tailora.commands.evaluate import EvaluateSettings
from tailora.commands.evaluate import run as evaluate
from tailora.commands.generate import GenerateSettings
from tailora.commands.generate import run as generate
from tailora.commands.merge import MergeSettings
from tailora.commands.merge import run as merge
from tailora.data.linearize import STYLES, linearize
from tailora.data.prompts import PromptForm
from tailora.data.readers.jsonl import parse_facts
from tailora.data.values import Record
from tailora.inference import writing
from tailora.inference.setup import prompt_ids
from tailora.models.load import load_base
from tailora.serve.server import Server
from tailora.training import run as run_module
from tailora.training.settings import TrainSettings

FACTS = {"name": "Blue Spice", "eatType": "pub", "area": "a:b"}
RECORD = Record("1", parse_facts(FACTS, "facts"), ())
TEXT = "Blue Spice."
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
DEPLOY = Path(__file__).parents[1] / "docs" / "deploy.md"
FORMS = {f"{form}-{style}": (form, style) for form, style in itertools.product(get_args(PromptForm), STYLES)}
FEW = {"paper-paper", "arrow-plain", "chat-plain"}
"""A name for each prompt form and each linearisation; the slow tests have all pairs."""


@dataclass
class World:
    """A base with an adapter for each prompt form and linearisation, and a server that has them all."""

    folder: Path
    trained: dict[str, tuple[int, ...]]
    server: Server
    prompts: list[tuple[int, ...]] = field(default_factory=list)

    def asked(self, path: str, **body: Any) -> tuple[int, ...]:
        """The prompt that the engine gets for a request, which has to be answered."""
        self.prompts.clear()
        answer = post(self.server, path, {"max_tokens": 2, **body})
        assert answer.status_code == 200, answer.text
        (prompt,) = set(self.prompts)
        return prompt

    def refused(self, path: str, **body: Any) -> str:
        """What is said of a request that cannot become a prompt."""
        self.prompts.clear()
        answer = post(self.server, path, {"max_tokens": 2, **body})
        assert answer.status_code == 400, answer.text
        assert not self.prompts
        return str(answer.json()["error"]["message"])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((bos, names), id=f"{bos}, {label}", marks=marks)
        for label, names, marks in (("few", FEW, ()), ("all", set(FORMS), pytest.mark.slow))
        for bos in ("without bos", "with bos")
    ],
)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    bos, names = request.param
    tokenizer = save_sentencepiece if bos == "with bos" else save_tokenizer
    save_base(folder / "base", "llama", tokenizer=tokenizer, ends=2 if bos == "with bos" else 0)
    (folder / "base" / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    (folder / "data.jsonl").write_text(json.dumps({"facts": FACTS, "text": TEXT}) + "\n", encoding="utf-8")
    trained = {name: train(folder, name, form, style) for name, (form, style) in FORMS.items() if name in names}
    adapters = tuple(f"{name}={folder / name}" for name in trained)
    with served(settings_for(folder, adapter=adapters)) as server:
        made = World(folder, trained, server)
        engine: Any = server.service.running.engine
        submit = engine.submit

        def recorded(asked: Any) -> int:
            made.prompts.append(asked.prompt)
            number: int = submit(asked)
            return number

        engine.submit = recorded
        yield made


def train(folder: Path, name: str, form: Any, style: str) -> tuple[int, ...]:
    """Train an adapter by a step, and give the prompt that it was trained on."""
    with pytest.MonkeyPatch.context() as patch:
        seen: list[Any] = []
        fit = run_module.fit

        def recorded(model: Any, examples: Any, *others: Any, **more: Any) -> Any:
            seen.extend(examples)
            return fit(model, examples, *others, **more)

        patch.setattr(run_module, "fit", recorded)
        run_module.run(
            TrainSettings(
                data=str(folder / "data.jsonl"),
                base=str(folder / "base"),
                prompt_form=form,
                linearization=style,
                precision="fp32",
                device="cpu",
                max_steps=1,
                learning_rate=0.1,
                output=folder / name,
            )
        )
    (example,) = seen
    return tuple(example.prompt)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The prompts that a verb writes texts after."""
    seen: list[tuple[int, ...]] = []
    write = writing.generate

    def recorded(running: Any, prompts: Any, *others: Any, **more: Any) -> Any:
        seen.extend(prompt.tokens for prompt in prompts)
        return write(running, prompts, *others, **more)

    monkeypatch.setattr(writing, "generate", recorded)
    return seen


def spelled(name: str) -> str:
    """The record in the linearisation of an adapter."""
    return linearize(RECORD, name.rpartition("-")[2])


def test_the_verbs_build_what_training_saw(world: World, tmp_path: Path, written: list[tuple[int, ...]]) -> None:
    common: dict[str, Any] = {"input": str(world.folder / "data.jsonl"), "max_new_tokens": 2, "precision": "fp32"}
    for name, trained in world.trained.items():
        written.clear()
        generate(GenerateSettings(adapter=(str(world.folder / name),), **common))
        generate(GenerateSettings(adapter=(str(world.folder / name),), record=json.dumps(FACTS), max_new_tokens=2))
        output, merged = tmp_path / name / "scores", tmp_path / name / "merged"
        evaluate(EvaluateSettings(adapter=(str(world.folder / name),), output=output, metrics=("bleu",), **common))
        merge(MergeSettings(adapter=(world.folder / name,), output=merged, check=False))
        generate(GenerateSettings(base=str(merged), **common))
        assert written == [trained] * 4
        assert prompt_ids(FACTS, adapter=world.folder / name) == list(trained)
        assert prompt_ids(FACTS, base=str(merged)) == list(trained)


@pytest.mark.parametrize("stream", [False, True])
def test_every_route_builds_what_training_saw(world: World, stream: bool) -> None:
    for name, wanted in world.trained.items():
        check_routes(world, name, wanted, stream=stream)


def check_routes(world: World, name: str, wanted: tuple[int, ...], *, stream: bool) -> None:
    texts = [json.dumps(FACTS), json.dumps({"facts": FACTS}), spelled(name)]
    texts += [f"```json\n{json.dumps(FACTS, indent=2)}\n```", f"~~~\n{json.dumps(FACTS)}\n~~~\n"]
    common = {"model": name, "stream": stream}
    assert world.asked("/v1/records", facts=FACTS, **common) == wanted
    for text in texts:
        assert world.asked("/v1/completions", prompt=text, **common) == wanted
        assert world.asked("/v1/completions", prompt=[text, text], **common) == wanted
        parts = [{"type": "text", "text": text}]
        for content in (text, parts):
            assert (
                world.asked("/v1/chat/completions", messages=[{"role": "user", "content": content}], **common) == wanted
            )
        limits = {"max_tokens": None, "max_output_tokens": 2}
        assert world.asked("/v1/responses", input=text, **common, **limits) == wanted
        assert post(world.server, "/tokenize", {"model": name, "prompt": text}).json()["tokens"] == list(wanted)
    assert world.asked("/v1/completions", prompt=list(wanted), **common) == wanted
    if name.startswith("arrow"):
        assert world.asked("/v1/completions", prompt=f"{spelled(name)} =>", **common) == wanted


def test_the_documented_request_to_vllm_sends_what_training_saw(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, trained in world.trained.items():
        world.prompts.clear()
        exec(compile(documented(world, name), str(DEPLOY), "exec"), {})  # the page's own code
        assert world.prompts == [trained]
        assert capsys.readouterr().out


def documented(world: World, name: str) -> str:
    """The page's code for an adapter of this server."""
    code = DEPLOY.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    for told, real in (
        ('"eatType": "pub", "area": "riverside"', '"eatType": "pub", "area": "a:b"'),
        ("http://127.0.0.1:8000", world.server.address),
        ('"runs/e2e"', repr(str(world.folder / name))),
        ('"model": "e2e"', f'"model": "{name}"'),
        ('"max_tokens": 100', '"max_tokens": 2'),
    ):
        assert told in code
        code = code.replace(told, real)
    return code


def test_prompts_begin_and_end_as_their_form_says(world: World) -> None:
    tokenizer = load_base(str(world.folder / "base")).tokenizer
    begin, end = list(tokenizer.bos_ids), tokenizer.eos_id
    facts = tokenizer.encode("name : Blue Spice | Type : pub | area : a:b")
    assert world.trained["paper-paper"] == (*begin, *facts, end)
    plain = "name: Blue Spice; eat type: pub; area: a:b"
    assert world.trained["arrow-plain"] == (*begin, *tokenizer.encode(f"{plain} =>"))
    assert world.trained["chat-plain"] == tuple(tokenizer.encode(f"<user>{plain}\n<assistant>"))


@pytest.mark.parametrize(
    "text", ["Tell me a joke.", "", " ", "Write about this:\nname : Blue", '{"name": {"a": 1}}', "[]", "7", "=> name"]
)
def test_what_is_no_record_is_refused_with_the_way(world: World, text: str) -> None:
    for name in world.trained:
        told = world.refused("/v1/completions", model=name, prompt=text)
        assert "/v1/records" in told
        told = world.refused("/v1/chat/completions", model=name, messages=[{"role": "user", "content": text}])
        assert "/v1/records" in told


def test_conversations_with_an_adapter_of_records(world: World) -> None:
    """Earlier records with their texts change nothing; what an adapter cannot heed is refused."""
    user, other = {"role": "user", "content": json.dumps(FACTS)}, {"role": "user", "content": "name : The Oak"}
    answer, system = {"role": "assistant", "content": TEXT}, {"role": "system", "content": "Be brief."}
    for name in world.trained:
        assert world.asked("/v1/chat/completions", model=name, messages=[other, answer, user]) == world.trained[name]
        for messages, told in (
            ([system, user], "without system messages"),
            ([{**system, "role": "developer"}, user], "without system messages"),
            ([user, answer], "must be a user message"),
            ([{"role": "user", "content": "Hello!"}, answer, user], "not one"),
        ):
            assert told in world.refused("/v1/chat/completions", model=name, messages=messages)


def test_the_text_of_a_chat_is_that_of_records(world: World) -> None:
    with openai.OpenAI(base_url=f"{world.server.address}/v1", api_key="none", max_retries=0) as client:
        for name in world.trained:
            asked: dict[str, Any] = {"model": name, "max_tokens": 8, "temperature": 0}
            messages: Any = [{"role": "user", "content": json.dumps(FACTS)}]
            text = client.chat.completions.create(messages=messages, **asked).choices[0].message.content or ""
            chunks = client.chat.completions.create(messages=messages, stream=True, **asked)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
            record = post(world.server, "/v1/records", {"model": name, "facts": FACTS, "max_tokens": 8})
            assert record.json()["data"][0]["text"] == text.strip()


def test_the_base_takes_texts_as_transformers_would(world: World) -> None:
    tokenizer = load_base(str(world.folder / "base")).tokenizer
    begin = tokenizer.bos_ids
    assert world.asked("/v1/completions", model="base", prompt="Hello") == (*begin, *tokenizer.encode("Hello"))
    assert world.asked("/v1/completions", model="base", prompt=[5, 6]) == (5, 6)
    assert world.asked("/v1/completions", model="base", prompt="") == (begin or (tokenizer.eos_id,))
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    wanted = tuple(tokenizer.encode("<system>a\n<user>b\n<assistant>"))
    assert world.asked("/v1/chat/completions", model="base", messages=messages) == wanted


def test_the_base_gets_records_as_generate_writes_them(world: World, written: list[tuple[int, ...]]) -> None:
    generate(GenerateSettings(base=str(world.folder / "base"), record=json.dumps(FACTS), max_new_tokens=2))
    assert written == [world.asked("/v1/records", model="base", facts=FACTS)]
    assert written == [tuple(prompt_ids(FACTS, base=str(world.folder / "base")))]


def test_an_echoed_prompt_adds_up(world: World) -> None:
    """The beginning of text has no place in the text; what was added to a record's line is told."""
    for name, text, echoed in (("base", "name", "name"), ("arrow-plain", "name: b", "name: b =>")):
        body = {"model": name, "prompt": text, "echo": True, "logprobs": 1, "max_tokens": 2, "temperature": 0}
        choice = post(world.server, "/v1/completions", body).json()["choices"][0]
        assert choice["text"].startswith(echoed)
        told = choice["logprobs"]
        offsets = [offset for offset in told["text_offset"] if offset < len(echoed)]
        begins = len(load_base(str(world.folder / "base")).tokenizer.bos_ids)
        assert offsets[: begins + 1] == [0] * (begins + 1)
        words = told["tokens"][begins : len(offsets)]
        assert "".join(words) == echoed
        assert [choice["text"][offset:].startswith(word) for offset, word in zip(offsets[begins:], words, strict=True)]


def test_an_adapter_of_the_first_edition_keeps_its_prompt(world: World, written: list[tuple[int, ...]]) -> None:
    """Its `tailora.json` has no beginning of text; it was trained without one."""
    for name in ("paper-paper", "arrow-plain"):
        place = world.folder / name / "adapter" / "tailora.json"
        account = json.loads(place.read_text(encoding="utf-8"))
        old = {**account, "meta": {key: account["meta"][key] for key in ("linearization", "prompt_form")}}
        tokenizer = load_base(str(world.folder / "base")).tokenizer
        try:
            place.write_text(json.dumps(old), encoding="utf-8")
            generate(GenerateSettings(adapter=(str(world.folder / name),), record=json.dumps(FACTS), max_new_tokens=2))
        finally:
            place.write_text(json.dumps(account), encoding="utf-8")
        assert written.pop() == world.trained[name][len(tokenizer.bos_ids) :]


def test_ready_prompts_are_taken_as_they_are(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "base").symlink_to(world.folder / "base")
    rows = [{"prompt": "Say hello: ", "completion": TEXT}]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trained = {form: train(folder, form, form, "paper") for form in get_args(PromptForm)}
    adapters = tuple(f"{form}={folder / form}" for form in trained)
    with served(settings_for(folder, adapter=adapters)) as server:
        made = World(folder, trained, server)
        engine: Any = server.service.running.engine
        submit = engine.submit
        engine.submit = lambda asked: made.prompts.append(asked.prompt) or submit(asked)  # type: ignore[func-returns-value]
        for form, wanted in trained.items():
            assert made.asked("/v1/completions", model=form, prompt="Say hello: ") == wanted
            messages = [{"role": "user", "content": "Say hello:"}]
            assert made.asked("/v1/chat/completions", model=form, messages=messages) == wanted
            longer = [*messages, {"role": "assistant", "content": "a"}, *messages]
            if form != "chat":
                assert "one user message" in made.refused("/v1/chat/completions", model=form, messages=longer)
                continue
            tokenizer = server.service.tokenizer
            turns = f"<user>Say hello:\n<assistant>a{tokenizer.eos_token}\n<user>Say hello:\n<assistant>"
            spelt = tokenizer.encode(turns, special=True)
            assert made.asked("/v1/chat/completions", model=form, messages=longer) == tuple(spelt)
