"""Slot errors on plain cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.data.values import Fact, Record
from tailora.errors import DataError
from tailora.metrics.slots import _Search, load_rules, normalise, slot_errors, slot_report


def record(**facts):
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
def test_report(text, missing, added, repeated):
    report = slot_report(record(name="The Eagle", familyFriendly="no", near="Café Rouge"), text)
    assert (len(report.missing), len(report.added), len(report.repeated)) == (missing, added, repeated)


def test_mentions_stand_where_the_text_has_them():
    text = "The Eagle — a kid-friendly Indian place, near CAFÉ  ROUGE!"
    report = slot_report(record(name="The Eagle", familyFriendly="yes", near="Café Rouge"), text)
    found = [(text[m.start : m.end], m.fact.attribute, m.added) for m in report.mentions]
    assert found == [
        ("Eagle", "name", False),
        ("kid-friendly", "familyFriendly", False),
        ("Indian", "food", True),
        ("CAFÉ  ROUGE", "near", False),
    ]


@given(st.text(max_size=40), st.text("abcé ßﬁ½İΣ£20,.'’-_", max_size=40))
def test_places_lead_back_to_the_letters_they_came_from(one, other):
    search = _Search(one + other)
    for place, letter in enumerate(search.rest):
        origin = search.origin((place, place + 1))
        if letter in " .,":
            assert origin is None
        else:
            assert origin is not None
            # A sigma's form depends on what stands beside it.
            assert letter.replace("ς", "σ") in normalise(search.text[origin[0] : origin[1]] + "0").replace("ς", "σ")


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


def test_rules_of_the_users_own(tmp_path):
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
        ("attributes: [1", "is no file of slot rules"),
        ("attributes: {colour: {rules: [{values: [red]}]}}", "is no file of slot rules"),
        ("colour: red", "is no file of slot rules"),
        ("attributes: {colour: {rules: [{values: [red], patterns: ['(red']}]}}", "is no regular expression"),
    ],
)
def test_rules_that_cannot_be_read(tmp_path, text, what):
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=what):
        load_rules(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_rules(tmp_path / "none.yaml")
