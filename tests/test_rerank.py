"""The choice among a record's candidates, and further candidates where all have slot errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import tailora
from tailora.commands.generate import GenerateSettings, run
from tailora.core.errors import SettingsError, UserError
from tailora.data.values import Fact, Record
from tailora.engine.decoding import Decoding
from tailora.inference.decoding_settings import DecodingSettings
from tailora.inference.rerank import ROUND, TEMPERATURE, Chosen, Judge, further_decoding, write_chosen
from tailora.inference.texts import Candidate, Generation, Prompt, generation_from

MILL = Record("mill", (Fact(None, "name", "The Mill"), Fact(None, "eatType", "pub")), ())
OAK = Record("oak", (Fact(None, "name", "The Oak"), Fact(None, "eatType", "pub")), ())
GOOD, SHORT, WRONG = "The Mill is a pub .", "The Mill .", "The Oak ."


def candidate(text: str, logprob: float = -1.0) -> Candidate:
    return Candidate((1, 2), (logprob / 2, logprob / 2), "stop", text=text)


class Script:
    """Writes the texts of a script: for each round, the candidates of each prompt."""

    def __init__(self, *rounds: Mapping[Prompt, Sequence[Candidate] | UserError]) -> None:
        self.rounds, self.decodings, self.asked = list(rounds), list[Decoding](), list[list[Prompt]]()

    def __call__(
        self, prompts: Sequence[Prompt], decoding: Decoding, done: Callable[[int, Generation], None]
    ) -> dict[int, UserError]:
        self.decodings.append(decoding)
        self.asked.append(list(prompts))
        errors: dict[int, UserError] = {}
        texts = self.rounds.pop(0)
        for place in reversed(range(len(prompts))):  # texts are finished in any order
            candidates = texts[prompts[place]]
            if isinstance(candidates, UserError):
                errors[place] = candidates
            else:
                done(place, generation_from(tuple(candidates), 1))
        return errors


def chosen(
    records: Sequence[Record], prompts: Sequence[Prompt], script: Script, **settings: Any
) -> tuple[dict[int, Chosen], dict[int, UserError]]:
    texts: dict[int, Chosen] = {}
    decoding = DecodingSettings(**settings)
    errors = write_chosen(records, prompts, Judge(decoding, [MILL, OAK]), script, texts.__setitem__)
    return texts, errors


P, Q = Prompt((1,)), Prompt((2,))


def test_fewest_slot_errors_precede_likelihood() -> None:
    likely, faithful, also = candidate(SHORT, -0.1), candidate(GOOD, -2.0), candidate("The Mill , a pub .", -3.0)
    texts, _ = chosen([MILL], [P], Script({P: [likely, faithful, also]}), beams=3, rerank="fidelity")
    assert texts[0].generation.candidates == (faithful, also, likely)
    assert texts[0].generation.token_ids == faithful.token_ids
    assert texts[0].slot_errors is None


def test_without_a_choice_the_first_candidate_is_the_text() -> None:
    texts, _ = chosen([MILL, MILL], [P, P], Script({P: [candidate(SHORT), candidate(GOOD)]}), beams=2)
    assert [text.generation.text for text in texts.values()] == [SHORT, SHORT]


def test_further_candidates_are_written_only_where_all_have_errors() -> None:
    script = Script(
        {P: [candidate(SHORT)], Q: [candidate("The Oak , a pub .")]}, {P: [candidate(WRONG), candidate(GOOD)]}
    )
    texts, errors = chosen([MILL, OAK], [P, Q], script, faithful=True)
    assert not errors
    assert script.asked == [[P, Q], [P]]
    assert [texts[number].generation.text for number in (0, 1)] == [GOOD, "The Oak , a pub ."]
    assert [texts[number].slot_errors for number in (0, 1)] == [(), ()]
    assert [len(texts[number].generation.candidates) for number in (0, 1)] == [1, 1]
    first, further = script.decodings
    assert first.greedy
    assert (further.num_candidates, further.temperature, further.num_beams) == (ROUND, TEMPERATURE, 1)


def test_the_likeliest_faithful_text_is_taken_and_first_candidates_precede_further_ones() -> None:
    script = Script({P: [candidate(SHORT)]}, {P: [candidate(GOOD, -9), candidate("The Mill , a pub .", -3)]})
    texts, _ = chosen([MILL], [P], script, faithful=True)
    assert texts[0].generation.text == "The Mill , a pub ."
    script = Script({P: [candidate(SHORT, -9)]}, {P: [candidate("A pub .", -1)]})
    texts, _ = chosen([MILL], [P], script, faithful=True, faithful_candidates=1)
    assert texts[0].generation.text == SHORT


def test_the_bound_ends_the_search_and_errors_are_named() -> None:
    rounds: list[dict[Prompt, list[Candidate]]] = [
        {P: [candidate(WRONG)]},
        {P: [candidate(SHORT)]},
        {P: [candidate(WRONG)]},
    ]
    script = Script(*rounds)
    texts, _ = chosen([MILL], [P], script, faithful=True, faithful_candidates=ROUND + 3)
    assert [decoding.num_candidates for decoding in script.decodings] == [1, ROUND, 3]
    assert len({decoding.seed for decoding in script.decodings}) == 3
    assert texts[0].generation.text == SHORT
    assert texts[0].slot_errors == ("missing eatType: pub",)
    script = Script({P: [candidate(SHORT)]})
    texts, _ = chosen([MILL], [P], script, faithful=True, faithful_candidates=0)
    assert texts[0].slot_errors == ("missing eatType: pub",)


def test_records_with_one_prompt_share_candidates_and_are_judged_by_their_own_facts() -> None:
    script = Script({P: [candidate("The Oak , a pub .")]}, {P: [candidate(GOOD)]})
    texts, _ = chosen([MILL, OAK], [P, P], script, faithful=True)
    assert [texts[number].generation.text for number in (0, 1)] == [GOOD, "The Oak , a pub ."]
    assert script.asked == [[P], [P]]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_concerns_its_own_prompt(failing: int) -> None:
    error = SettingsError("too long")
    rounds: list[dict[Prompt, Any]] = [
        {P: [candidate(SHORT)], Q: [candidate("The Oak , a pub .")]},
        {P: [candidate(GOOD)]},
    ]
    rounds[failing][P] = error
    texts, errors = chosen([MILL, MILL, OAK], [P, P, Q], Script(*rounds), faithful=True)
    assert errors == {0: error}
    assert list(texts) == [2]


def test_sampling_settings_hold_for_further_candidates() -> None:
    sampled = Decoding(temperature=1.2, top_p=0.8, num_candidates=4, seed=7, max_new_tokens=9)
    further = further_decoding(sampled, ROUND, 3 * ROUND)
    assert further is not None
    assert (further.temperature, further.top_p, further.max_new_tokens, further.seed) == (1.2, 0.8, 9, 9)
    beams = further_decoding(Decoding(num_beams=4, length_penalty=0.9), 0, 1)
    assert beams is not None
    assert (beams.num_beams, beams.num_candidates, beams.temperature) == (1, 1, TEMPERATURE)
    assert further_decoding(sampled, ROUND, ROUND) is None
    rounds = [further_decoding(sampled, done, 7, 3) for done in (0, 3, 6)]
    assert [each.num_candidates for each in rounds if each is not None] == [3, 3, 1]
    assert len({each.seed for each in rounds if each is not None}) == 3


def test_slot_errors_of_printed_texts_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    asked: dict[str, Any] = {"faithful": True, "faithful_candidates": 0, "max_new_tokens": 2}
    result = run(GenerateSettings(base="tiny", precision="fp32", record="name : Qqq | food : Zzz", **asked))
    assert result["outputs"][0]["slot_errors"] == ["missing name: Qqq", "missing food: Zzz"]
    assert "record 1 has slot errors: missing name: Qqq, missing food: Zzz" in capsys.readouterr().err


def test_command_and_function_write_the_same_faithful_texts(tmp_path: Path) -> None:
    rows = [{"name": "Blue Spice", "eatType": "pub"}, {"name": "The Mill", "eatType": "pub"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked: dict[str, Any] = {"faithful": True, "faithful_candidates": 10, "max_new_tokens": 8}
    with tailora.load("tiny", precision="fp32") as model:
        texts = model.generate(rows, **asked)
        with pytest.raises(SettingsError, match="a stream has one candidate"):
            model.stream(rows[0], faithful=True)
    output = tmp_path / "out.jsonl"
    result = run(GenerateSettings(base="tiny", precision="fp32", input=str(path), output=output, **asked))
    written = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in written] == texts
    assert [tuple(row["slot_errors"]) for row in written] == [text.slot_errors for text in texts]
    assert result["texts_with_slot_errors"] == sum(bool(row["slot_errors"]) for row in written)
