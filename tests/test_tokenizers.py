"""The choice of a tokenizer, and scores of languages without spaces beside sacrebleu's."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from sacrebleu.metrics import BLEU, TER

from tailora.core.errors import MissingExtraError
from tailora.data.values import Fact, Record
from tailora.metrics import suite
from tailora.metrics.bleu import bleu
from tailora.metrics.scripts import language_of
from tailora.metrics.suite import measure
from tailora.metrics.ter import ter
from tailora.metrics.tokenizers import choose, is_installed, sacrebleu_tokenizer

CHINESE = [["蓝门是河边的一家酒吧。", "河边有一家叫蓝门的酒吧。"], ["Apple商店位于北京路12号。"]]
JAPANESE = [["青い扉は川沿いの居酒屋です。"], ["カフェ・ルナは駅前のカフェです。"]]
KOREAN = [["푸른문은 강변에 있는 술집입니다."]]
THAI = [["ประตูสีน้ำเงินเป็นผับริมแม่น้ำ"], ["ร้านกาแฟลูนาอยู่หน้าสถานี"]]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("蓝门是一家酒吧。", "zh"),
        ("iPhone 15 Pro Max是Apple的旗舰手机。", "zh"),
        ("The name 蓝门 means blue door.", None),
        ("彼女は東京で生まれた。", "ja"),
        ("カフェ", "ja"),
        ("카페 루나는 역 앞에 있다.", "ko"),
        ("ร้านกาแฟ", "th"),
        ("ຮ້ານກາເຟ", "lo"),
        ("ហាងកាហ្វេ", "km"),
        ("လူနာကဖီး", "my"),
        ("Quán Mưa gần Hồ Tây", None),
        ("हिन्दी में", None),
        ("12 + 3", None),
        ("", None),
    ],
)
def test_language_by_script(text: str, language: str | None) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("references", "language", "name"),
    [
        (CHINESE, "Chinese", "zh"),
        (JAPANESE, "Japanese", "ja-mecab" if is_installed("ja-mecab") else "char"),
        (KOREAN, "Korean", "ko-mecab" if is_installed("ko-mecab") else "char"),
        (THAI, "Thai", "char"),
        ([["A pub."], ["Ein Café."]], None, None),
    ],
)
def test_the_choice_follows_the_script(references: Any, language: str | None, name: Any) -> None:
    chosen = choose([None] * len(references), references)
    assert (chosen.language, chosen.name) == (language, name)
    assert bool(chosen.note) == (name is not None)


def test_the_choice_follows_the_language_that_is_known() -> None:
    assert choose(["zh-Hant", "zho"], [["a b c"], ["d e f"]]).name == "zh"
    assert choose(["th_TH"], [["a"]]).name == "char"
    assert choose(["vi"], [["蓝门"]]).name is None
    for name in ("Chinese", "中文", "cn", "zh_Hans_CN", "cmn-Hant"):
        assert choose([name] * 2, CHINESE).name == "zh", "names and countries are no codes"
    assert choose(["English", "Tiếng Việt"], [["A pub."], ["Một quán rượu."]]).name is None
    forced = choose([None, None], CHINESE, "char")
    assert (forced.name, forced.language) == ("char", "Chinese")


def test_several_writing_systems_are_reported() -> None:
    assert "1 of 3 records are in another writing system" in choose([None] * 3, [*CHINESE, ["A pub."]]).note
    assert "1 of 3 records" in choose([None] * 3, [["A pub."], ["A bar."], CHINESE[0]]).note


@pytest.mark.parametrize("name", ["zh", "char", "13a", "intl"])
@pytest.mark.parametrize("references", [CHINESE, JAPANESE, THAI])
def test_scores_equal_sacrebleu(name: str, references: Any) -> None:
    texts = [own[-1][2:] + own[0][:3] for own in references]
    streams = [[own[min(number, len(own) - 1)] for own in references] for number in range(2)]
    theirs = BLEU(tokenize=name, lowercase=True).corpus_score(texts, streams).score
    assert 100 * bleu(texts, references, tokenizer=name).value == pytest.approx(theirs)
    cut = sacrebleu_tokenizer(name)
    spaced = [[" ".join(cut(each)) for each in stream] for stream in streams]
    theirs = TER().corpus_score([" ".join(cut(text)) for text in texts], spaced).score
    assert 100 * ter(texts, references, tokenizer=name).value == pytest.approx(theirs)


def records(references: Any) -> Any:
    values = ["蓝门", "Apple"]
    return [
        Record(str(n), (Fact(None, "a", value),), tuple(own))
        for n, (value, own) in enumerate(zip(values, references, strict=True))
    ]


def test_texts_without_spaces_have_scores() -> None:
    texts = ["蓝门是河边的酒吧。", "Apple商店在北京路12号。"]
    names = ["bleu", "nist", "rouge_l", "cider", "chrf", "ter", "meteor", "webnlg_ter", "slots"]
    measured = measure(records(CHINESE), texts, names)
    assert measured.note == "The tokenizer is zh: most references are in Chinese."
    assert set(measured.missing) == {"meteor", "webnlg_ter"}
    assert "does not apply to Chinese" in measured.missing["meteor"]
    for name in ("bleu", "nist", "rouge_l", "cider", "ter"):
        assert "tok:zh|" in measured.statistics[name].signature
        assert measured.statistics[name].value > 0
    assert measured.statistics["slots"].value == 0
    # Texts about something else share the full stop alone, which counts for nothing.
    assert measure(records(CHINESE), ["他们去了山。"] * 2, ["rouge_l"]).statistics["rouge_l"].value == 0
    forced = measure(records(CHINESE), texts, ["bleu", "rouge_l"], tokenizer="char")
    assert "tok:char|" in forced.statistics["bleu"].signature


@pytest.mark.parametrize(
    ("languages", "noted"),
    [
        (["ru", "ru"], True),
        (["German", None, "German"], True),
        (["en-GB", "en"], False),
        (["English"], False),
        ([None], False),
    ],
)
def test_meteor_for_another_language_is_noted(monkeypatch: Any, languages: list[str | None], noted: bool) -> None:
    monkeypatch.setitem(suite._OTHERS, "meteor", suite.chrf)  # in place of the Java program
    own = [Record(str(number), (), ("A pub.",), language=language) for number, language in enumerate(languages)]
    note = measure(own, ["A pub."] * len(own), ["meteor"]).note
    assert ("METEOR compares English stems" in note) == noted
    assert measure(own, ["A pub."] * len(own), ["chrf"]).note == ""


def test_texts_with_spaces_have_the_official_tokens() -> None:
    measured = measure(records([["A pub.", "A bar."], ["An inn."]]), ["A pub.", "inn"], ["bleu", "rouge_l", "chrf"])
    assert measured.note == ""
    signature = measured.statistics["bleu"].signature
    assert signature.startswith("tok:mteval-13a|case:lc-ascii|")
    assert "|refs:1-2|version:tailora-" in signature
    assert "tok:ptb-3.4.1" in measured.statistics["rouge_l"].signature
    assert all("version:" in each.signature for each in measured.statistics.values())


def test_a_tokenizer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MeCab", None)
    assert not is_installed("ja-mecab")
    chosen = choose([None, None], JAPANESE)
    assert chosen.name == "char"
    assert "pip install 'sacrebleu[ja]'" in chosen.note
    with pytest.raises(MissingExtraError, match="ja-mecab"):
        measure(records(JAPANESE), ["a", "b"], ["bleu"], tokenizer="ja-mecab")
