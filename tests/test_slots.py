"""Slot errors on plain cases."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tailora.core.errors import DataError
from tailora.data.values import Fact, Record
from tailora.metrics.slot_rules import load_rules
from tailora.metrics.slots import slot_errors, slot_report
from tailora.metrics.spelling import one_spelling, spell, without_accents
from tailora.metrics.value_search import normalise


def record(**facts: Any) -> Record:
    return Record("1", tuple(Fact(None, key.replace("_", " "), value) for key, value in facts.items()), ())


@pytest.mark.parametrize(
    ("text", "missing", "added", "repeated"),
    [
        ("The Eagle is not family - friendly and near Café Rouge.", 0, 0, 0),
        ("Eagle isn't kid-friendly. It is near Cafe Rouge.", 0, 0, 0),
        ("The Eagle is family-friendly, near Café Rouge.", 1, 1, 0),
        ("The Eagle is an Indian place near Café Rouge with no children.", 0, 1, 0),
        ("The Eagle near Café Rouge is by Café Rouge and is not family-friendly.", 0, 0, 1),
    ],
)
def test_report(text: str, missing: int, added: int, repeated: int) -> None:
    report = slot_report(record(name="The Eagle", familyFriendly="no", near="Café Rouge"), text)
    assert (len(report.missing), len(report.added), len(report.repeated)) == (missing, added, repeated)


@pytest.mark.parametrize("name", ["Café Adriatic", "Cafe Brazil", "Café Rouge", "café sicilia"])
def test_a_name_that_contains_a_kind_of_place_is_not_that_kind(name: str) -> None:
    """Also where no record has the name, so that it is no known value."""
    eagle = record(name="The Eagle", food="English")
    assert slot_report(eagle, f"The Eagle serves English food near {name}.").added == ()
    (added,) = slot_report(eagle, f"The Eagle is a café with English food near {name}.").added
    assert added.value == "coffee shop"


def test_mentions_stand_where_the_text_has_them() -> None:
    text = "The Eagle — a kid-friendly Indian place, near CAFÉ  ROUGE!"
    report = slot_report(record(name="The Eagle", familyFriendly="yes", near="Café Rouge"), text)
    found = [(text[m.start : m.end], m.fact.attribute, m.added) for m in report.mentions]
    assert found == [
        ("Eagle", "name", False),
        ("kid-friendly", "familyFriendly", False),
        ("Indian", "food", True),
        ("CAFÉ  ROUGE", "near", False),
    ]


def said(value: Any, text: str, *others: Any, vocabulary: Any = None) -> bool:
    facts = tuple(Fact(None, f"a{number}", each) for number, each in enumerate((value, *others)))
    report = slot_report(Record("1", facts, ()), text, vocabulary)
    return facts[0] not in report.missing


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Café Rouge", "It is near Cafe Rouge."),
        ("Café Rouge", "A café near Cafe Rouge."),
        ("Cafe Rouge", "It is near Café Rouge."),
        ("Hồ Tây", "The pub lies by Ho Tay."),
        ("San Sebastián", "San Sebastian lies by Ærø."),
        ("Cafe\u0301 Rouge", "It is near Café Rouge."),  # decomposed
        ("Tiếng Việt", "Đây là Tiê\u0301ng Viê\u0323t."),
        ("Große Straße", "AN DER GROSSEN STRASSE: GROSSE STRASSE 5"),
        ("ΟΔΟΣ ΗΛΙΟΣ", "Στην οδος ηλιος."),
        ("οδός", "Η ΟΔΌΣ."),
        ("İzmir", "The city of izmir, or IZMIR."),
        ("Işık Lokantası", "IŞIK LOKANTASI İstanbul'da."),
        ("İNCİ", "inci satar"),
        ("５ stars", "It has 5 stars."),
        ("ＡＢＣ", "the abc shop"),
        ("ﬁne wine", "Fine wine."),
        ("Артём", "Это Артем."),
        ("مُحَمَّد", "هذا محمد هنا"),
        ("한글", "그것은 \u1112\u1161\u11ab\u1100\u1173\u11af 이다"),  # decomposed Hangul
        ("ガイド", "ｶﾞｲﾄﾞです"),  # half-width
        ("Hòa Bình", "Quán Hoà Bình ở trung tâm."),  # both ways to place a tone mark
        ("Thuỷ Tạ", "Nhà hàng THỦY TẠ."),
        ("khoẻ", "một bữa sáng khỏe"),
        ("Артём Королёв", "Артем пришёл. Это Артем Королев."),
        ("25", "السعر ٢٥ دينار"),
        ("25", "ราคา ๒๕ บาท"),
        ("150000", "Giá 150.000 đồng."),
        ("1000", "Es hat 1.000 Plätze, 1.000.000 Gäste."),
        ("Ankara", "Ankara'da bir lokanta."),
        ("Blue Spice", "Blue Spice’ın yanında."),
        ("2020", "2020'de açıldı."),
        ("ISPARTA", "Isparta'nın gülleri."),
        ("4.5", "Đánh giá 4,5 sao."),
        ("4,5", "It has 4.5 stars."),
        ("48.8566", "Breite 48,8566"),
        ("1250.5", "Es kostet 1.250,50 Euro."),
        ("1250.5", "It costs 1,250.50 in total."),
        ("3.0", "It has 3 rooms."),  # as pandas writes whole numbers in a column with empty cells
        ("3", "Rated 3.0 by guests."),
        ("1000000", "1\u00a0000\u202f000 personnes"),
        ("1 000", "It has 1 000 seats."),
        ("50%", "Die Hälfte, 50\u00a0%, ist frei."),
        ("50 %", "A share of 50%."),
        *((value, f"It costs {text} today.") for value in ("€20", "20 €", "20€", "20 EUR") for text in ("€20", "20 €")),
        ("$4.50", "It costs 4.5 dollars."),
        ("£20", "It costs 20 pounds, not more."),
        ("5 km", "It is 5km away."),
        ("10am", "It opens at 10 am."),
        ("Bangers & Mash", "It serves bangers and mash."),
        ("Bangers and Mash", "Bangers & mash."),
        ("Bangers_&_Mash", "Bangers & Mash."),
        ("B&B", "A B&B in town."),
        *(
            ("1983-10-03", f"It opened on {date}.")
            for date in (
                "1983-10-03",
                "3 October 1983",
                "October 3rd, 1983",
                "the 3rd of October, 1983",
                "Oct. 3, 1983",
            )
        ),
        ("1983-10-03", "Es öffnete am 3.10.1983."),
        ("1983-10-03", "Mở cửa ngày 03/10/1983."),
        ('"2011-11-11"', "On November 11th, 2011."),
        ("Irlam Town F.C.", "He plays for Irlam Town FC."),
        ("FC Bari", "He plays for F.C. Bari."),
        ("U.S.", "It is in the US, far away."),
        ("US", "It is in the U.S."),
        ("-5", "It is -5 °C."),
        ("-5", "It is \u22125 degrees."),
        ("-5", "It is minus 5 degrees."),
        ("-5", "It is 5 degrees below zero."),
        ("-5", "The party lost 5 seats."),
        ("5", "A range of 3-5 rooms."),
        ("5", "From 3 -5 pm."),
    ],
)
def test_spellings_of_one_value(value: str, text: str) -> None:
    assert said(value, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((one, f"Con {other} ở đây.") for one in ("ma", "má", "mà") for other in ("ma", "má", "mà") if one != other),
        *(
            (one, f"The shop sells {other}.")
            for one in ("ma", "má", "mà")
            for other in ("ma", "má", "mà")
            if one != other
        ),
        ("Quán Má", "Quán Ma gần hồ."),
        ("Quán Mà", "Quán Má"),
        ("Ba Vì", "Ba Vi ở gần đó."),
        ("año", "el ano"),
        ("papá", "el papa vive en Roma"),
        ("Märkte", "die Markte für Bücher"),
        ("мой", "мои"),
        ("sık", "sik"),
        ("कि", "की"),
        ("कम", "कमी है"),
        ("มา", "ม้า"),
        ("かき", "かぎ"),
        ("5", "It is rated 4.5 stars."),
        ("4", "It is rated 4.5 stars."),
        ("Bar", "The Barn."),
        ("Ha", "Ha'penny Bridge"),
        ("Brien", "O'brien is here."),
        ("1", "Es hat 1.000 Plätze."),
        ("4125", "It is 0.4125 or 4.1250 long."),
        ("Hoá", "Hoà ở đây."),
        ("5", "Es hat 4,5 Sterne."),
        ("15", "It is 1.5."),
        ("1.5", "It has 1,500 seats."),
        ("€20", "It costs $20."),
        ("€20", "It costs 20 pounds."),
        ("20 m", "It costs €20."),
        ("5 km", "It is 5 m away."),
        ("FC Bari", "He plays for F. Bari."),
        ("U.S.", "The USA."),
        ("1983-10-03", "It opened on 13 October 1983."),
        ("1983-10-03", "It opened in October 1983."),
        ("1983-10-03", "It opened on 3 October 1984."),
        ("1983-10-03", "It opened on 3/11/1983."),
        ("5", "The 5th pub."),
        ("-5", "It is 5 degrees."),
        ("5", "It is -5 degrees."),
        ("5", "It is (-5)."),
    ],
)
def test_other_words_are_not_the_value(value: Any, text: Any) -> None:
    assert not said(value, text)


def test_values_that_accents_tell_apart() -> None:
    assert said("Peña", "We met Pena there.")
    assert not said("Peña", "We met Pena there.", "Pena")
    assert not said("Peña", "We met Pena there.", vocabulary={"who": frozenset(["Pena", "Peña"])})
    # Where both spellings are facts, each is said by itself alone.
    both = Record("1", (Fact(None, "a", "Peña"), Fact(None, "b", "Pena")), ())
    assert slot_report(both, "Pena and Peña met.").errors == 0
    assert [fact.value for fact in slot_report(both, "Peña met.").missing] == ["Pena"]


@pytest.mark.parametrize(
    ("facts", "text", "missing"),
    [
        ({"名称": "蓝门", "类型": "酒吧"}, "蓝门是河边的一家酒吧。", []),
        ({"名称": "蓝门", "类型": "餐厅"}, "蓝门是河边的一家酒吧。", ["餐厅"]),
        ({"品牌": "Apple", "评分": "4.5"}, "位于北京路的Apple商店评分4.5分。", []),
        ({"品牌": "App", "评分": "5"}, "位于北京路的Apple商店评分4.5分。", ["App", "5"]),
        ({"地址": "北京路 12 号"}, "在北京路12号。", []),
        ({"価格": "２０００円", "種類": "居酒屋"}, "青い扉は2000円以下の居酒屋です。", []),
        ({"이름": "푸른문", "종류": "술집"}, "푸른문은 강변에 있는 술집입니다.", []),
        ({"ชื่อ": "ลูนา", "ที่": "ริมแม่น้ำ"}, "ร้านลูนาอยู่ริมแม่น้ำ", []),
        ({"ชื่อ": "ลูน", "x": "แม"}, "ร้านลูนาอยู่ริมแม่น้ำ", ["แม"]),
        ({"ឈ្មោះ": "លូណា"}, "ហាងលូណានៅមុខស្ថានីយ៍", []),
        ({"ຊື່": "ລູນາ"}, "ຮ້ານລູນາຢູ່ໜ້າສະຖານີ", []),
        ({"အမည်": "လူနာ"}, "လူနာကဖီးသည်ဘူတာရှေ့တွင်ရှိသည်။", []),
    ],
)
def test_values_in_scripts_without_spaces(facts: dict[str, str], text: str, missing: Any) -> None:
    found = Record("1", tuple(Fact(None, key, value) for key, value in facts.items()), ())
    report = slot_report(found, text)
    assert [fact.value for fact in report.missing] == missing
    for mention in report.mentions:
        assert normalise(text[mention.start : mention.end]).replace(" ", "") == normalise(mention.fact.value).replace(
            " ", ""
        )


@example("", "İ่")
@example("", "İ\u0301")
@given(st.text(max_size=40), st.text("abcé ßﬁ½İΣ£20,.'’-_e\u0301ẅก่ガﾞ蓝", max_size=40))
def test_places_lead_back_to_the_letters_they_came_from(one: Any, other: Any) -> None:
    text, places = spell(one + other)
    assert len(text) == len(places) == len(spell(one + other, turkic=True).text)
    assert text == text.strip()
    assert "  " not in text
    starts = [place[0] for place in places if place is not None]
    assert starts == sorted(starts)
    for letter, place in zip(text, places, strict=True):
        if letter in " .,":
            assert place is None or letter == "."
        elif place is not None:
            composed = unicodedata.normalize("NFKC", (one + other)[slice(*place)]).replace("İ", "i")
            folded = one_spelling(unicodedata.normalize("NFKC", composed.casefold()).replace("\u2044", "/"))
            assert letter in folded or without_accents(letter)[0] in without_accents(folded)[0], "a tone mark moved"


@given(st.text(max_size=30))
def test_equal_texts_to_unicode_are_equal_texts(text: Any) -> None:
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert normalise(composed) == normalise(decomposed)


@example(":")
@example("(-5")
@example("--5.0")
@example("&")
@example("1,50 %")
@given(st.text(st.characters(categories=["L", "N", "M", "Zs", "P"]), min_size=1, max_size=12))
def test_a_value_is_said_where_the_text_is_the_value(value: Any) -> None:
    assume(normalise(value) not in ("yes", "no", "true", "false"))  # said by the attribute's words
    assert said(value, value)
    assert said(value, f"x {unicodedata.normalize('NFD', value)} y")


@given(st.sampled_from("aeiouyAEIOUY"), st.sampled_from(["", *"\u0301\u0300\u0309\u0303\u0323"]), st.data())
def test_tones_are_never_confused(vowel: Any, tone: Any, data: Any) -> None:
    other = data.draw(st.sampled_from(["", *"\u0301\u0300\u0309\u0303\u0323"]))
    value, text = (unicodedata.normalize("NFC", f"m{vowel}{each}") for each in (tone, other))
    assert said(value, f"con {text} kia") == (tone == other)


RULES = """
attributes:
  colour:
    aliases: [color]
    closed: true
    rules:
      - values: [red]
        patterns: ['red', 'crimson']
      - values: [blue]
        patterns: ['blue', 'navy']
  food:
    rules:
      - values: [Indian]
        patterns: ['tandoori']
"""


def test_rules_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES, encoding="utf-8")
    rules = load_rules(path)
    report = slot_report(record(color="red", shop="Ada"), "Ada sells crimson and navy food, cheaply.", rules=rules)
    assert (report.missing, report.repeated) == ((), ())
    assert [(fact.attribute, fact.value) for fact in report.added] == [("colour", "blue")]
    # The bundled rules still hold for E2E's records, but for an attribute that the file redefines.
    eagle = record(eatType="pub", food="Indian")
    assert slot_report(eagle, "A tavern with tandoori", rules=rules).errors == 0
    assert slot_report(eagle, "A tavern with curry", rules=rules).errors == 1
    assert slot_report(eagle, "A tavern with curry").errors == 0
    signature = slot_errors([eagle], ["A tavern"], rules).signature
    assert signature != slot_errors([eagle], ["A tavern"]).signature


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("attributes: [1", ":1: is not valid YAML: expected ',' or ']'"),
        ("attributes:\n  colour: {}\n  colour: {}", ":3: is not valid YAML: 'colour' is given twice"),
        ("attributes: {colour: {rules: [{values: [red]}]}}", "is not a file of slot rules"),
        ("colour: red", "is not a file of slot rules"),
        ("attributes: {colour: {rules: [{values: [red], patterns: ['(red']}]}}", "is not a regular expression"),
    ],
)
def test_rules_that_cannot_be_read(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=what):
        load_rules(path)
    with pytest.raises(DataError, match="there is no such file; name a file of slot rules"):
        load_rules(tmp_path / "none.yaml")


def test_no_text_has_to_say_the_dialogue_act_or_what_it_asks_for() -> None:
    act = [Fact(None, "dialogue act", "inform"), Fact(None, "esrb", "?"), Fact(None, "name", "Celeste")]
    report = slot_report(Record("1", tuple(act), ()), "Which rating does Celeste have?")
    assert (report.slots, report.missing, report.added) == (2, (), ())


def test_facts_with_the_same_value_share_its_mentions() -> None:
    born = [Fact("Ada", "birth place", "Hanoi"), Fact("Ada", "death place", "Hanoi")]
    report = slot_report(Record("1", tuple(born), ()), "Ada was born and died in Hanoi.")
    assert (report.missing, report.repeated) == ((), ())
    report = slot_report(Record("1", tuple(born), ()), "Ada was born in Hanoi and died in Hanoi.")
    assert (report.missing, report.repeated) == ((), ())
    assert [mention.fact for mention in report.mentions] == born
    three = slot_report(Record("1", tuple(born), ()), "Born in Hanoi, Ada lived in Hanoi and died in Hanoi.")
    assert (three.missing, three.repeated) == ((), (born[0],))
    assert slot_report(Record("1", tuple(born), ()), "Ada was born and died in Rome.").missing == tuple(born)
    # With and without an article it is one value.
    assert slot_report(record(shop="The Oak", beside="Oak"), "The Oak is beside Oak.").errors == 0
    low = record(low="-5", high="5")
    assert slot_report(low, "From -5 to 5 degrees.").errors == 0
    assert [fact.value for fact in slot_report(low, "It is 5 degrees.").missing] == ["-5"]
    # A rule's value can be in two facts, too.
    pubs = Record("1", (Fact(None, "eatType", "pub"), Fact(None, "eatType", "pub")), ())
    assert slot_report(pubs, "It is a pub.").errors == 0


@pytest.mark.parametrize(
    ("attribute", "value", "text", "right"),
    [
        ("petFriendly", "yes", "Blue Door is pet-friendly.", True),
        ("petFriendly", "yes", "Blue Door is not pet friendly.", False),
        ("petFriendly", "yes", "It isn't a very pet friendly place.", False),
        ("petFriendly", "yes", "It is not cheap, but pet friendly.", True),
        ("petFriendly", "yes", "It is not only pet friendly, but cheap.", True),
        ("petFriendly", "yes", "It is not far from town. It is pet friendly.", True),
        ("petFriendly", "yes", "It is neither cheap nor pet friendly.", False),
        ("petFriendly", "yes", "The menu is not pet friendly, but the terrace is pet friendly.", True),
        ("petFriendly", "no", "Blue Door is pet friendly.", False),
        ("petFriendly", "no", "Blue Door is pet friendly, but not cheap.", False),
        ("petFriendly", "no", "It is not cheap. It is pet friendly.", False),
        ("petFriendly", "no", "It isn't cheap, but it is pet friendly.", False),
        ("petFriendly", "no", "It is cheap, but not pet friendly.", True),
        ("outdoor seating", "no", "It has no wifi, parking or outdoor seating.", True),
        ("outdoor seating", "no", "Outdoor seating is not available.", True),
        ("outdoor seating", "yes", "Outdoor seating is not available.", False),
        ("outdoor seating", "yes", "The outdoor seating is not heated.", True),
        ("outdoor seating", "yes", "It doesn't have any outdoor seating.", False),
        ("hasOutdoorSeating", "yes", "It comes with outdoor seating.", True),
        ("has_linux_release", "no", "There is no Linux release.", True),
        ("has_linux_release", "yes", "It has no Linux release.", False),
        ("is_vegan", "true", "It is vegan.", True),
    ],
)
def test_truth_values_and_negations(attribute: str, value: str, text: str, right: bool) -> None:
    report = slot_report(Record("1", (Fact(None, attribute, value),), ()), text)
    assert (report.missing == ()) == right


@pytest.mark.parametrize(
    ("rating", "price", "kind", "family"),
    [
        ("customer rating", "priceRange", "eatType", "familyFriendly"),
        ("customer_rating", "price_range", "eat_type", "family_friendly"),
        ("customerRating", "price range", "eat type", "family friendly"),
        ("rating", "price", "Type", "family friendly"),
    ],
)
def test_rules_know_the_usual_spellings_of_attributes(rating: str, price: str, kind: str, family: str) -> None:
    facts = [(rating, "high"), (price, "cheap"), (kind, "pub"), (family, "yes")]
    own = Record("1", tuple(Fact(None, *fact) for fact in facts), ())
    assert slot_report(own, "A highly rated, inexpensive tavern where kids are welcome.").errors == 0
    report = slot_report(own, "A poorly rated, inexpensive tavern where kids are welcome.")
    assert [fact.attribute for fact in report.missing] == [rating]
    assert report.errors == 1
