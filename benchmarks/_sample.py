"""The training data of all arms: all pairs of randomly drawn meaning representations (MRs), as tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _processes import say
from tailora.data.examples import Example, build_examples
from tailora.data.prompts import PromptForm
from tailora.data.records import Record, read
from tailora.data.tokenizer import Tokenizer

BUNDLED = "restaurants"


@dataclass(frozen=True)
class Sample:
    """Drawn examples.

    Attributes:
        examples: one for every reference of every drawn MR, those of an MR next to each other.
        end_of_text: the token that ends prompts and completions, and fills padded rows up.
    """

    examples: list[Example]
    end_of_text: int


def random_mrs(data: str, tokenizer: str, *, count: int, seed: int) -> Sample:
    """Draw MRs from a file of records with all their references; the same for every arm that gives the same seed.

    Args:
        data: the file; where it is missing the bundled restaurants take its place, and a line says so.
        tokenizer: the folder of the tokenizer.
        count: how many MRs (all, if there are not as many).
        seed: of the draw.
    """
    records = records_of(data, split="train")
    drawn = random.Random(seed).sample(records, min(count, len(records)))
    return encode(drawn, Tokenizer.from_folder(tokenizer))


def fixed_set(data: str, tokenizer: Tokenizer, *, count: int, seed: int) -> Sample:
    """Draw records until they give `count` examples; the last record's surplus is left out.

    Args:
        data: as in `random_mrs`.
        tokenizer: the base model's.
        count: how many examples.
        seed: of the draw.
    """
    records = records_of(data, split="train")
    sample = encode(random.Random(seed).sample(records, len(records)), tokenizer, form="arrow")
    return Sample(sample.examples[:count], sample.end_of_text)


def records_of(data: str, *, split: str) -> list[Record]:
    """Read a file of records, or where it is missing the bundled restaurants."""
    if Path(data).exists():
        return read(data)
    say(f"{data} is not there: the bundled {BUNDLED} are used, and the figures are not those of E2E")
    return read(BUNDLED, split=split)


def encode(records: Sequence[Record], tokenizer: Tokenizer, *, form: PromptForm = "paper") -> Sample:
    """Tokenise records; by default in the LoRA paper's form, facts and end-of-text, then the text and end-of-text."""
    examples, _ = build_examples(records, tokenizer, form=form)
    return Sample(examples, tokenizer.eos_id)
