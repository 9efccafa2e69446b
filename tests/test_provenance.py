"""The tailora.json of a merged or quantised model's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailora.core.errors import ModelError
from tailora.core.files import write_json
from tailora.models.provenance import source_fingerprint, training_metadata


def test_a_base_of_another_program_has_no_provenance(tmp_path: Path) -> None:
    assert source_fingerprint(tmp_path) is None
    assert training_metadata(tmp_path) == {}


def test_what_a_folder_was_made_of(tmp_path: Path) -> None:
    write_json(tmp_path / "tailora.json", {"quantised": {"fingerprint": "ab"}, "meta": {"prompt_form": "arrow"}})
    assert source_fingerprint(tmp_path) == "ab"
    assert training_metadata(tmp_path) == {"prompt_form": "arrow"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"quantised": {}}', "does not name the weights"),
        ('{"quantised": 5}', "does not name the weights"),
    ],
)
def test_a_broken_record_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tailora.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=rf"tailora\.json: {message}.*; restore the file, or"):
        source_fingerprint(tmp_path)


def test_a_record_without_the_training_is_an_error(tmp_path: Path) -> None:
    write_json(tmp_path / "tailora.json", {"merged": {}})
    with pytest.raises(ModelError, match="does not say how the merged adapter was trained"):
        training_metadata(tmp_path)
