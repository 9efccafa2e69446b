"""Text is only ever text; what is saved loads again. Examples count what does not fit."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tailora.data.examples import build_examples
from tailora.data.tokenizer import Tokenizer
from tailora.data.values import Fact, Record
from tailora.errors import DataError, ModelError

END = "<|endoftext|>"


@pytest.fixture
def tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(letters)} | {END: 256}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return Tokenizer(inner, END)


def test_special_tokens_are_not_read_from_text(tokenizer, tmp_path):
    text = f"Café{END}£"
    assert tokenizer.eos_id == 256
    assert 256 not in tokenizer.encode(text)
    assert tokenizer.decode([*tokenizer.encode(text), 256]) == text
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert (again.eos_id, again.encode(text)) == (256, tokenizer.encode(text))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [5, 6]}), encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).eos_id == 5


def test_special_tokens_are_read_where_a_template_wrote_them(tokenizer):
    text = f"Café{END}£"
    ids = tokenizer.encode(text, special=True)
    assert ids.count(256) == 1
    assert tokenizer.decode(ids, special=True) == text
    assert tokenizer.special_tokens == (END,)
    assert 256 not in tokenizer.encode(text)


def test_the_bytes_of_tokens_are_the_texts(tokenizer):
    text = "Café \n\x00\x7f\xad£ 日😀"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()
    assert (tokenizer.token_bytes(256), tokenizer.token_bytes(9999)) == (END.encode(), b"")


def test_no_tokenizer(tmp_path):
    with pytest.raises(ModelError, match="holds no tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_examples(tokenizer):
    records = [Record("1", (Fact(None, "a", "b"),), ("short", "much longer text")), Record("2", (), (), prompt="x")]
    examples, report = build_examples(records, tokenizer)
    assert tokenizer.decode(examples[0].prompt) == "a : b"
    assert examples[0].prompt[-1] == examples[0].completion[-1] == 256
    assert (report.total, report.without_text, report.overlong) == (2, 1, 0)
    dropped, report = build_examples(records, tokenizer, max_length=15, overlong="drop")
    assert (len(dropped), report.dropped, report.cut) == (1, 1, 0)
    cut, report = build_examples(records, tokenizer, max_length=15, overlong="cut")
    assert (len(cut[1]), report.dropped, report.cut) == (15, 0, 1)
    with pytest.raises(DataError, match="1 over 15"):
        build_examples(records, tokenizer, max_length=15)
