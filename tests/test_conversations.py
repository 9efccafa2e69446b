"""Conversations: what is learnt of them, beside transformers' mask of the assistant's tokens; every form of file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from bases import save_base, save_tokenizer
from live_server import post, served, settings_for
from tailora.core.errors import DataError
from tailora.core.files import write_json
from tailora.data.examples import Example, build_examples
from tailora.data.prompts import PromptFormat
from tailora.data.readers import jsonl
from tailora.data.records import load, parse, read
from tailora.data.tokenizer import Tokenizer
from tailora.data.values import Record, Turn
from tailora.training import run as run_module
from tailora.training.settings import TrainSettings
from tailora.training.trees.prefix_tree import build

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content | trim }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETFUL = (  # earlier answers are shortened, as templates do with earlier thoughts
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' and not loop.last %}(…){{ eos_token }}{% else %}{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Blue Spice?"},
    {"role": "assistant", "content": "A pub."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "By the river."},
    {"role": "user", "content": "And The Mill?"},
    {"role": "assistant", "content": "In the centre."},
]


def prompts_in(folder: Path, template: str = TEMPLATE) -> PromptFormat:
    save_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return PromptFormat.of_training(Tokenizer.from_folder(folder), form="chat", folder=folder)


def learnt(examples: Sequence[Example]) -> Counter[tuple[tuple[int, ...], int]]:
    """The tokens that are learnt, each with all tokens before it."""
    pairs: Counter[tuple[tuple[int, ...], int]] = Counter()
    for example in examples:
        tokens = example.prompt + example.completion
        places = [len(example.prompt) + place for place in example.learnt]
        pairs.update((tokens[:place], tokens[place]) for place in places)
    return pairs


def records_of(*rows: dict[str, Any]) -> list[Record]:
    return list(load_text("".join(json.dumps(row) + "\n" for row in rows)))


def load_text(text: str) -> Sequence[Record]:
    return parse(text, Path("rows.jsonl")).records


@pytest.mark.parametrize("turns", [TURNS, TURNS[1:], TURNS[:3], TURNS[1:3]], ids=["all", "no system", "one", "short"])
def test_the_tokens_that_are_learnt_are_those_of_transformers(turns: list[dict[str, str]], tmp_path: Path) -> None:
    prompts = prompts_in(tmp_path)
    examples, report = build_examples(records_of({"messages": turns}), prompts.tokenizer, prompts=prompts)
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True
    )
    tokens, mask = theirs["input_ids"], theirs["assistant_masks"]
    wanted = Counter((tuple(tokens[:place]), token) for place, token in enumerate(tokens) if mask[place])
    assert wanted
    assert learnt(examples) == wanted
    assert (len(examples), report.total) == (1, 1)


def test_a_weight_of_zero_excludes_an_answer(tmp_path: Path) -> None:
    prompts = prompts_in(tmp_path)
    turns = [*TURNS[:2], TURNS[2] | {"weight": 0}, TURNS[3], TURNS[4] | {"weight": 1}]
    (example,), _ = build_examples(records_of({"messages": turns}), prompts.tokenizer, prompts=prompts)
    text = prompts.tokenizer.decode([example.completion[place] for place in example.learnt])
    assert text.startswith("By the river.")
    assert len(example.learnt) == len(example.completion)


def test_a_template_that_shortens_earlier_answers_gives_an_example_for_each(tmp_path: Path) -> None:
    prompts = prompts_in(tmp_path, FORGETFUL)
    examples, report = build_examples(records_of({"messages": TURNS}), prompts.tokenizer, prompts=prompts)
    assert report.total == len(examples) == 3
    template = prompts.template
    assert template is not None
    for example, place in zip(examples, (2, 4, 6), strict=True):
        assert example.prompt == template.encode(TURNS[:place])
        assert len(example.learnt) == len(example.completion)


def test_an_example_that_is_cut_learns_what_is_left(tmp_path: Path) -> None:
    prompts = prompts_in(tmp_path)
    records = records_of({"messages": TURNS})
    (whole,), _ = build_examples(records, prompts.tokenizer, prompts=prompts)
    for length in range(len(whole.prompt) + 1, len(whole)):
        (cut,), _ = build_examples(records, prompts.tokenizer, prompts=prompts, max_length=length, overlong="cut")
        room = length - len(whole.prompt)
        assert cut.completion == whole.completion[:room]
        assert list(cut.learnt) == [place for place in whole.learnt if place < room]


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 3), min_size=1, max_size=2),
            st.lists(st.integers(1, 3), min_size=1, max_size=7),
            st.lists(st.integers(0, 7), max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_trees_learn_what_the_examples_learn(rows: list[tuple[list[int], list[int], list[int]]]) -> None:
    examples = []
    for prompt, completion, cuts in rows:
        ends = sorted({min(cut, len(completion) - 1) for cut in cuts})
        context = tuple(zip(ends[::2], ends[1::2], strict=False))
        examples.append(Example("1", tuple(prompt), tuple(completion), context))
    batch = build(examples)
    paths: list[tuple[int, ...]] = []
    for place, (token, depth) in enumerate(zip(batch.tokens, batch.positions, strict=True)):
        parent = max((n for n in range(place) if batch.positions[n] == depth - 1 and place < batch.ends[n]), default=-1)
        paths.append((*(paths[parent] if depth else ()), int(token)))
    edges = Counter[tuple[tuple[int, ...], int]]()
    for node, token, weight in zip(batch.edge_nodes, batch.edge_tokens, batch.edge_weights, strict=True):
        edges[paths[node], int(token)] += int(weight)
    assert edges == learnt(examples)
    assert batch.completion_tokens == sum(len(example.learnt) for example in examples)


ONE = [{"role": "user", "content": "Blue Spice?"}, {"role": "assistant", "content": "A pub."}]
SAME: dict[str, dict[str, Any]] = {
    "openai": {"messages": ONE},
    "no tools": {"messages": ONE, "tools": "[]", "functions": []},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Blue Spice?"}]}, ONE[1]]},
    "trl prompt and completion": {"prompt": ONE[:1], "completion": ONE[1:]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Blue Spice?"}, {"from": "gpt", "value": "A pub."}]},
    "conversations with roles": {"conversations": ONE},
    "alpaca": {"instruction": "Blue Spice?", "input": "", "output": "A pub."},
    "alpaca without input": {"instruction": "Blue Spice?", "output": "A pub."},
    "alpaca with null": {"instruction": "Blue Spice?", "input": None, "output": "A pub."},
}


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_every_form_gives_the_same_record(row: dict[str, Any]) -> None:
    (record,) = records_of(row)
    assert record.messages == (Turn("user", "Blue Spice?"),)
    assert (record.prompt, record.references, record.facts) == ("Blue Spice?", ("A pub.",), ())


def test_alpaca_with_everything() -> None:
    row = {"instruction": "Describe.", "input": "Blue Spice", "output": "A pub.", "system": "Be brief."}
    (record,) = records_of(row | {"history": [["Hi", "Hello."]]})
    assert [tuple(message) for message in record.messages] == [
        ("system", "Be brief.", False),
        ("user", "Hi", False),
        ("assistant", "Hello.", True),
        ("user", "Describe.\nBlue Spice", False),
    ]


def test_developer_and_system_keys() -> None:
    developer = [{"role": "developer", "content": "Be brief."}, *ONE]
    assert records_of({"messages": developer})[0].messages[0] == Turn("system", "Be brief.")
    assert records_of({"conversations": ONE, "system": "Be brief."})[0].messages[0] == Turn("system", "Be brief.")


def test_rows_to_write_about_need_no_answer(tmp_path: Path) -> None:
    for row in ({"messages": TURNS[:4]}, {"messages": ONE[:1]}, {"instruction": "Describe.", "input": "Blue Spice"}):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        (record,) = read(tmp_path / "rows.jsonl", texts="unused")
        assert record.references == ()
        assert record.messages[-1].role == "user"


def test_answers_to_one_conversation_are_references_of_one_record() -> None:
    other = [ONE[0], {"role": "assistant", "content": "It is a pub."}]
    (record,) = records_of({"messages": ONE}, {"messages": other})
    assert record.references == ("A pub.", "It is a pub.")
    assert len(records_of({"messages": ONE}, {"messages": [TURNS[0], *ONE]})) == 2


def test_a_file_is_written_back_as_it_was_read() -> None:
    turns = [*TURNS[:2], TURNS[2] | {"weight": 0}, *TURNS[3:]]
    records = records_of({"messages": turns}, {"messages": ONE})
    assert list(load_text(jsonl.dump(records))) == records


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no answer": ({"messages": ONE[:1]}, "no reference text"),
    "empty answer": ({"messages": [ONE[0], {"role": "assistant", "content": " "}]}, "the text is empty"),
    "null answer": ({"messages": [ONE[0], {"role": "assistant", "content": None}]}, "the text is empty"),
    "answer first": ({"messages": ONE[1:]}, "begins with an answer"),
    "weightless": ({"messages": [ONE[0], ONE[1] | {"weight": 0}]}, "weight 0"),
    "odd weight": ({"messages": [ONE[0], ONE[1] | {"weight": 2}]}, "weight is 2"),
    "role": ({"messages": [{"role": "tool", "content": "x"}, ONE[1]]}, r"messages\[0\]: calls a tool"),
    "no role": ({"messages": [{"content": "x"}, ONE[1]]}, "there is no role None"),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ONE[1]]}, "'image_url'"),
    "tool call": ({"messages": [ONE[0], {"role": "assistant", "tool_calls": [{}]}]}, "calls a tool"),
    "observation": ({"conversations": [{"from": "observation", "value": "{}"}]}, "calls a tool"),
    "tools": ({"messages": ONE, "tools": [{"type": "function"}]}, "tool calls"),
    "empty question": ({"messages": [{"role": "user", "content": ""}, ONE[1]]}, "user's message is empty"),
    "text completion": ({"prompt": ONE[:1], "completion": "A pub."}, "'completion' is not"),
    "empty instruction": ({"instruction": "", "output": "A pub."}, "the instruction is empty"),
    "numbers": ({"instruction": "Describe.", "output": 7}, "'output' is not text"),
    "history": ({"instruction": "Describe.", "output": "x", "history": ["Hi"]}, "list of pairs"),
    "mixed": ({"facts": {"name": "Mug"}, "text": "A mug."}, "not a conversation"),
}


@pytest.mark.parametrize(("row", "message"), WRONG.values(), ids=WRONG)
def test_errors_name_the_line(row: dict[str, Any], message: str) -> None:
    good = {"instruction": "a", "output": "b"} if "instruction" in row else {"messages": ONE}
    with pytest.raises(DataError, match=rf"rows\.jsonl:2.*{message}"):
        records_of(good, row)


def test_keys_that_are_not_read_are_reported(tmp_path: Path) -> None:
    for row, key in (({"messages": ONE, "input": "x"}, "input"), (SAME["alpaca"] | {"text": "x"}, "text")):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        assert load(tmp_path / "rows.jsonl").notes == (f"the key '{key}' next to the conversation is not read",)


def test_a_conversation_needs_a_chat_template(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    records = records_of({"messages": TURNS})
    prompts = PromptFormat.of_training(tokenizer, form=None, folder=tmp_path, records=records)
    assert prompts.form == "paper"
    with pytest.raises(DataError, match="--prompt-form chat"):
        prompts.encode(records)
    short = records_of({"messages": ONE})  # a single question is a ready prompt
    assert prompts.encode(short) == [(*prompts.bos, *tokenizer.encode("Blue Spice?"))]


def test_trained_and_served_prompts_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_base(tmp_path / "base", "llama")
    (tmp_path / "base" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": TURNS[1:5]}) + "\n", encoding="utf-8")
    seen: list[Any] = []
    fit = run_module.fit

    def recorded(model: Any, examples: Any, *others: Any, **more: Any) -> Any:
        seen.extend(examples)
        return fit(model, examples, *others, **more)

    monkeypatch.setattr(run_module, "fit", recorded)
    output = tmp_path / "run"
    settings = {"base": str(tmp_path / "base"), "precision": "fp32", "device": "cpu", "max_steps": 1}
    run_module.run(TrainSettings(data=str(tmp_path / "data.jsonl"), output=output, **settings))
    (example,) = seen
    trained = [
        (example.prompt + example.completion)[: len(example.prompt) + place]
        for place in example.learnt
        if place == 0 or place - 1 not in example.learnt
    ]
    prompts: list[tuple[int, ...]] = []
    with served(settings_for(tmp_path, adapter=(f"talk={output}",))) as server:
        engine: Any = server.service.running.engine
        submit = engine.submit

        def submitted(request: Any) -> int:
            prompts.append(request.prompt)
            number: int = submit(request)
            return number

        engine.submit = submitted
        for count in (1, 3):
            body = {"model": "talk", "messages": TURNS[1 : 1 + count], "max_tokens": 2}
            assert post(server, "/v1/chat/completions", body).status_code == 200
    assert prompts == trained
    stored = json.loads((output / "adapter" / "tailora.json").read_text(encoding="utf-8"))
    assert stored["meta"]["prompt_form"] == "chat"


def test_texts_without_records(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    write_json(tmp_path / "rows.json", [{"text": "A mug."}, {"text": "A bowl."}])
    (tmp_path / "rows.txt").write_text("A mug.\n\nA bowl.\n", encoding="utf-8")
    for name in ("rows.json", "rows.txt"):
        records = read(tmp_path / name, format="text")
        assert [(record.prompt, record.references) for record in records] == [("", ("A mug.",)), ("", ("A bowl.",))]
        prompts = PromptFormat.of_training(Tokenizer.from_folder(tmp_path), records=records)
        examples, _ = build_examples(records, prompts.tokenizer, prompts=prompts)
        assert [example.prompt for example in examples] == [(prompts.end,)] * 2
        assert prompts.tokenizer.decode(list(examples[0].completion[:-1])) == "A mug."


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Describe it."},
        {"instruction": "Describe it.", "id": "7"},
        {"instruction": "Describe it.", "input": None, "group": "g"},
        {"instruction": "Describe it.", "input": "", "source": "web"},
    ],
)
def test_an_instruction_without_an_answer_is_no_table(row: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (record,) = load(path, texts="unused").rows
    assert (record.facts, record.prompt) == ((), "Describe it.")
    assert [message.content for message in record.messages] == ["Describe it."]
