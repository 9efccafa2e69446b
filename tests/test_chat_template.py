"""Chat templates: rendered as transformers renders them, in a sandbox, their special tokens their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer

from bases import END, save_sentencepiece, save_tokenizer
from tailora.core.errors import DataError, ModelError
from tailora.core.files import write_json
from tailora.data.chat_template import ChatTemplate
from tailora.data.tokenizer import Tokenizer

TURNS = [{"role": "system", "content": "be brief"}, {"role": "user", "content": " hi\n"}]
_ALL, _END = "{% for m in messages %}", "{% endfor %}"
SOURCES = {
    "turns": _ALL
    + "{{ eos_token }}{{ m.role }}\n{{ m.content }}"
    + _END
    + "{% if add_generation_prompt %}>{% endif %}",
    "trimmed": "{%- for m in messages -%}\n {% if loop.first %}\n[{{ m.content | trim }}]\n {% endif %}{%- endfor -%}",
    "json": "{{ messages | tojson }}",
    "functions": "{{ strftime_now('%Y %B') }} {{ dict(a=1) | tojson }} {{ dict.fromkeys(['x', 'y'], 0) | tojson }} "
    + "{% set ns = namespace(n=0) %}"
    + _ALL
    + "{% set ns.n = ns.n + 1 %}{{ ns.n }}"
    + _END
    + "{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': 'é<'} | tojson(sort_keys=True, separators=(',', ':')) }}"
    + "{{ range(3) | list }}{{ cycler('odd', 'even').next() }}{{ joiner('; ')() }}",
    "generation": _ALL
    + "{% if m.role == 'user' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{% continue %}{% endif %}"
    + _END,
    "broken off": _ALL + "{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}" + _END,
}

# In the manner of well-known families, with what their templates make use of.
FAMILIES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted(Path(__file__).with_name("data").glob("chat_templates/*.jinja"))
}
TALKS = {
    "question": [{"role": "user", "content": " Hi & <bye> \n"}],
    "system": TURNS,
    "continued": [*TURNS, {"role": "assistant", "content": " Yes. "}, {"role": "user", "content": "é日"}],
    "without system": [TURNS[1], {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "More"}],
    "out of turn": [TURNS[1], TURNS[1]],
}


@pytest.mark.parametrize("source", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("talk", TALKS.values(), ids=TALKS)
@pytest.mark.parametrize("bos", [True, False])
def test_families_as_transformers(tmp_path: Path, source: str, talk: list[dict[str, str]], bos: bool) -> None:
    """Equal token ids, or both refuse."""
    if bos:
        save_sentencepiece(tmp_path)
    else:
        save_tokenizer(tmp_path)
        names = {"bos_token": END, "eos_token": {"__type": "AddedToken", "content": END}}
        write_json(tmp_path / "tokenizer_config.json", {**names, "tokenizer_class": "PreTrainedTokenizerFast"})
    (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    made = ChatTemplate.from_folder(tmp_path, Tokenizer.from_folder(tmp_path))
    assert made is not None
    try:
        wanted = theirs.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=False)
    except TemplateError:
        with pytest.raises(DataError):
            made.encode(talk)
        return
    assert list(made.encode(talk)) == wanted


@pytest.mark.parametrize("name", ["chatml", "llama_3", "gemma", "mistral"])
def test_an_answer_stands_where_the_template_puts_it(tmp_path: Path, name: str) -> None:
    save_sentencepiece(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(FAMILIES[name], encoding="utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    made = ChatTemplate.from_folder(tmp_path, tokenizer)
    assert made is not None
    gap, end = made.answer_form()
    assert (gap, end) == ("", tokenizer.eos_id)


def template(folder: Path, source: Any) -> ChatTemplate | None:
    save_tokenizer(folder)
    config = {"eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": source}
    write_json(folder / "tokenizer_config.json", config)
    return ChatTemplate.from_folder(folder, Tokenizer.from_folder(folder))


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_as_transformers(tmp_path: Path, source: str) -> None:
    made = template(tmp_path, source)
    assert made is not None
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    wanted = theirs.apply_chat_template(TURNS, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert list(made.encode(TURNS)) == wanted


def test_where_a_template_may_lie(tmp_path: Path) -> None:
    assert template(tmp_path / "none", None) is None
    named = template(tmp_path / "named", [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}])
    assert named is not None
    assert len(named.encode(TURNS)) == 1
    (tmp_path / "named" / "chat_template.jinja").write_text("file", encoding="utf-8")
    of_file = ChatTemplate.from_folder(tmp_path / "named", Tokenizer.from_folder(tmp_path / "named"))
    assert of_file is not None
    assert len(of_file.encode(TURNS)) == 4


THINKING = (
    "{% for m in messages %}{{ m.role }}\n{{ m.content }}\n{% endfor %}{{ 'assistant\n' if add_generation_prompt }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% for name, value in (notes or {}).items() %}{{ name }}={{ value | tojson }}{% endfor %}"
)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"enable_thinking": False},
        {"enable_thinking": True},
        {"enable_thinking": 0, "unknown": "x"},
        {"notes": {"a": [1, None, "é"], "b": {"c": True}}},
    ],
)
def test_variables_as_transformers(tmp_path: Path, variables: dict[str, Any]) -> None:
    made = template(tmp_path, THINKING)
    assert made is not None
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    assert list(made.encode(TURNS, variables)) == theirs.apply_chat_template(TURNS, **options, **variables)


@pytest.mark.parametrize("value", [f"a{END}b", {f"a{END}b": 1}, [["x", f"a{END}b"]]])
def test_special_tokens_in_variables_are_plain_text(tmp_path: Path, value: Any) -> None:
    made = template(tmp_path, "{{ eos_token }}{{ value }}")
    assert made is not None
    ids = made.encode(TURNS, {"value": value})
    assert ids.count(0) == 1
    assert Tokenizer.from_folder(tmp_path).decode(ids, special=True) == f"{END}{value}"


@pytest.mark.parametrize("filters", ["", "| tojson", "| tojson(ensure_ascii=True)", "| upper"])
def test_special_tokens_in_messages_pass_filters(tmp_path: Path, filters: str) -> None:
    made = template(tmp_path, f"{{{{ messages[0].content {filters} }}}}")
    assert made is not None
    text = Tokenizer.from_folder(tmp_path).decode(made.encode([{"role": "user", "content": f"a{END}b{END}"}]))
    assert text.strip('"').lower() == f"a{END}b{END}"


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "eos_token"])
def test_variables_cannot_have_a_name_that_is_taken(tmp_path: Path, name: str) -> None:
    made = template(tmp_path, THINKING)
    assert made is not None
    with pytest.raises(DataError, match=f"cannot have the name '{name}'; remove it"):
        made.encode(TURNS, {name: []})


def test_special_tokens_are_the_templates_alone(tmp_path: Path) -> None:
    made = template(tmp_path, SOURCES["turns"])
    assert made is not None
    ids = made.encode([{"role": "user", "content": f"a{END}b"}, {"role": "user", "content": "c"}])
    assert ids.count(0) == 2
    assert Tokenizer.from_folder(tmp_path).decode(ids, special=True) == f"{END}user\na{END}b{END}user\nc>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('alternate the roles') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[9].content }}",
        "{{ 1 / 0 }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ cycler.__init__.__globals__.os }}",
        "{% include 'other' %}",
        "{{ '{0.__class__}'.format(messages) }}{{ raise_exception('reached') }}",
    ],
)
def test_what_a_template_may_not_do_is_told(tmp_path: Path, source: str) -> None:
    made = template(tmp_path, source)
    assert made is not None
    with pytest.raises(DataError, match="does not accept this conversation"):
        made.encode(TURNS)


def test_a_broken_template_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="chat template cannot be read"):
        template(tmp_path, "{% for %}")
