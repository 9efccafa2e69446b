"""Slot errors on plain cases."""

import pytest

from tailora.data.values import Fact, Record
from tailora.metrics.slots import slot_report


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
