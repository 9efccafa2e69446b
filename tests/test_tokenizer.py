"""Text is only ever text; what is saved loads again. Examples count what does not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from bases import SENTENCEPIECE, save_sentencepiece, save_tokenizer
from tailora.core.errors import DataError, ModelError
from tailora.data.examples import build_examples
from tailora.data.tokenizer import Tokenizer
from tailora.data.values import Fact, Record

END = "<|endoftext|>"


@pytest.fixture
def tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(letters)} | {END: 256}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return Tokenizer(inner, END)


def test_special_tokens_are_not_read_from_text(tokenizer: Any, tmp_path: Path) -> None:
    text = f"Café{END}£"
    assert tokenizer.eos_id == 256
    assert 256 not in tokenizer.encode(text)
    assert tokenizer.decode([*tokenizer.encode(text), 256]) == text
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert (again.eos_id, again.encode(text)) == (256, tokenizer.encode(text))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [5, 6]}), encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).eos_id == 5


def test_what_is_no_character_is_the_users_to_mend(tokenizer: Any) -> None:
    for half in ("\ud83d", b"caf\xe9".decode("utf-8", "surrogateescape")):  # of JSON; of a command line
        with pytest.raises(DataError, match="is not UTF-8"):
            tokenizer.encode(half)
        with pytest.raises(DataError, match="is not UTF-8"):
            tokenizer.encode_batch(["a", half])
    with pytest.raises(TypeError):
        tokenizer.encode(1)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "special_tokens_map.json"])
def test_json_that_is_nested_too_deeply_is_broken(tokenizer: Any, tmp_path: Path, name: str) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / name).write_text('{"a":' + "[" * 100_000, encoding="utf-8")
    with pytest.raises(ModelError, match=f"{name}: is not valid JSON"):
        Tokenizer.from_folder(tmp_path)


def test_special_tokens_are_read_where_a_template_wrote_them(tokenizer: Any) -> None:
    text = f"Café{END}£"
    ids = tokenizer.encode(text, special=True)
    assert ids.count(256) == 1
    assert tokenizer.decode(ids, special=True) == text
    assert tokenizer.special_tokens == (END,)
    assert 256 not in tokenizer.encode(text)


@pytest.fixture
def _quick_switches() -> Iterator[Any]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_quick_switches")
def test_threads_that_read_special_tokens_do_not_disturb_those_that_do_not(tokenizer: Any) -> None:
    text = f"abc{END}" * 50
    ways = [{"special": special, "continues": continues} for special in (True, False) for continues in (True, False)]
    wanted = [tokenizer.encode(text, **way) for way in ways]
    assert wanted[0].count(256) == 50
    assert 256 not in wanted[3]

    def ask(number: Any) -> tuple[Any, ...]:
        batch = tokenizer.encode_batch([text] * 4)
        return number % 4, tokenizer.encode(text, **ways[number % 4]), batch, tokenizer.decode(batch[0])

    with ThreadPoolExecutor(8) as pool:
        for way, ids, batch, decoded in pool.map(ask, range(500)):
            assert ids == wanted[way]
            assert batch == [wanted[2]] * 4
            assert decoded == text


def test_the_bytes_of_tokens_are_the_texts(tokenizer: Any) -> None:
    text = "Café \n\x00\x7f\xad£ 日😀"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()
    assert (tokenizer.token_bytes(256), tokenizer.token_bytes(9999)) == (END.encode(), b"")


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="contains no tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_examples(tokenizer: Any) -> None:
    records = [Record("1", (Fact(None, "a", "b"),), ("short", "much longer text")), Record("2", (), (), prompt="x")]
    examples, report = build_examples(records, tokenizer)
    assert tokenizer.decode(examples[0].prompt) == "a : b"
    assert examples[0].prompt[-1] == examples[0].completion[-1] == 256
    assert (report.total, report.without_text, report.overlong) == (2, 1, 0)
    dropped, report = build_examples(records, tokenizer, max_length=15, overlong="drop")
    assert (len(dropped), report.dropped, report.cut) == (1, 1, 0)
    assert "; 1 with more than 15 tokens (1 left out)" in str(report)
    cut, report = build_examples(records, tokenizer, max_length=15, overlong="cut")
    assert (len(cut[1]), report.dropped, report.cut) == (15, 0, 1)
    with pytest.raises(DataError, match=r"^1 of 2 examples has more than 15 tokens, up to [0-9]+; raise"):
        build_examples(records, tokenizer, max_length=15)


TEXT = "name : Blue Door | Type : pub =>"


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_prompts_begin_as_in_transformers(tmp_path: Path, kind: Any, bos: bool) -> None:
    save_sentencepiece(tmp_path, kind, bos=bos)
    ours, theirs = Tokenizer.from_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, "\nname", "", " x", "日"):
        assert [*ours.bos_ids, *ours.encode(text)] == theirs(text)["input_ids"]
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)
    assert ours.bos_ids == ((1,) if bos else ())
    ours.save(tmp_path / "again")
    assert Tokenizer.from_folder(tmp_path / "again").bos_ids == ours.bos_ids
    assert AutoTokenizer.from_pretrained(tmp_path / "again")(TEXT) == theirs(TEXT)


def test_an_end_that_the_post_processor_adds_does_not_begin_a_prompt(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    inner = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for single, wanted in ((f"{END} $A {END}", (0,)), (f"$A {END}", ()), (f"{END} {END} $A", (0, 0))):
        inner.post_processor = processors.TemplateProcessing(single=single, pair=None, special_tokens=[(END, 0)])
        inner.save(str(tmp_path / "tokenizer.json"))
        assert Tokenizer.from_folder(tmp_path).bos_ids == wanted


@pytest.mark.parametrize("add_bos_token", [True, False, None])
def test_gpt2s_own_files_begin_texts_as_tokenizer_config_says(tmp_path: Path, add_bos_token: bool | None) -> None:
    save_tokenizer(tmp_path / "whole")
    vocabulary = json.loads((tmp_path / "whole" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps({"<sep>": 257}), encoding="utf-8")
    config: dict[str, Any] = {"tokenizer_class": "GPT2Tokenizer", "bos_token": END, "eos_token": END, "unk_token": END}
    config |= {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    assert [*ours.bos_ids, *ours.encode("a<sep>b")] == theirs("a<sep>b")["input_ids"]
    assert ours.bos_ids == ((0,) if add_bos_token else ())


@pytest.mark.parametrize(
    ("generation", "config", "named", "ends", "taught"),
    [
        (None, 5, END, {5}, 5),
        ([5, 6], 7, END, {5, 6}, 5),
        ([5, 256], [5], END, {5, 256}, 256),
        (None, [5, 256], END, {5, 256}, 256),
        (None, None, END, {256}, 256),
        (None, [9999, 6], END, {6}, 6),
    ],
)
def test_the_ends_of_texts(
    tokenizer: Any, tmp_path: Path, generation: list[int] | None, config: Any, named: Any, ends: set[int], taught: int
) -> None:
    tokenizer.save(tmp_path)
    for name, value in (("generation_config.json", generation), ("config.json", config)):
        (tmp_path / name).write_text(json.dumps({} if value is None else {"eos_token_id": value}), encoding="utf-8")
    found = Tokenizer.from_folder(tmp_path)
    assert (set(found.end_ids), found.eos_id) == (ends, taught)


def test_an_ordinary_token_that_ends_texts_stays_in_them(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    stop = tokenizer.encode(".")
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": stop}), encoding="utf-8")
    found = Tokenizer.from_folder(tmp_path)
    assert found.eos_id == stop[0]
    assert found.decode(found.encode("A. B.")) == "A. B."


@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_a_text_that_follows_another(tmp_path: Path, kind: Any) -> None:
    save_sentencepiece(tmp_path, kind)
    ours = Tokenizer.from_folder(tmp_path)
    for begin, rest in (("name =>", " The pub"), ("name\n", "The pub"), ("a", "b"), ("a", "日")):
        written = ours.encode(rest, continues=True)
        assert [*ours.encode(begin), *written] == ours.encode(begin + rest)
        assert ours.encode_batch([rest], continues=True) == [written]
        assert ours.decode_written(written) == rest
        assert b"".join(map(ours.token_bytes, written)).decode() == rest
