"""Agreement of `tailora clean` with the published cleaned E2E set (tuetschek/e2e-cleaning).

python benchmarks/cleaning.py --original e2e/devset.csv.gz --published e2e_cleaned/devel-fixed.no-ol.csv.gz

Every published row has the text and the record (`orig_mr`) of a row of the original file, in its order; rows that
overlap with the test set are left out. A pair agrees if both cleanings give the same set of facts. Rows that differ are
written with `--differences`; the numbers of a random sample are the same in every run.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tailora.core.files import write_text
from tailora.data.readers import delimited
from tailora.data.readers.meaning_representations import parse_mr
from tailora.data.records import load
from tailora.data.rewriting import rewriter_of
from tailora.data.text_files import read_text
from tailora.data.values import Fact
from tailora.evaluation.cleaning import Cleaner, Pair

Facts = frozenset[tuple[str, str]]


def main() -> None:
    """Print how many pairs agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="original file, mr,ref")
    parser.add_argument("--published", type=Path, required=True, help="cleaned file, mr,ref,fixed,orig_mr")
    parser.add_argument("--differences", type=Path, help="JSON lines file for the rows that differ")
    parser.add_argument("--sample", type=int, help="write only this number of rows, drawn at random")
    options = parser.parse_args()
    result, rows = agreement(options.original, options.published)
    if options.differences is not None:
        if options.sample is not None and options.sample < len(rows):
            rows = [rows[number] for number in sorted(random.Random(0).sample(range(len(rows)), options.sample))]
        write_text(options.differences, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(json.dumps(result, indent=2))


def agreement(original: Path, published: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the share of pairs that agree, with what differs by attribute, and the rows that differ."""
    data = load(original)
    cleaner = Cleaner(keep_duplicates=True)
    pairs = iter(cleaner.clean(data, rewriter_of(data)).pairs)
    compared, differing, kinds = 0, list[dict[str, Any]](), Counter[str]()
    for text, mr, original_mr in _published(published):
        pair = _next(pairs, text, _facts(parse_mr(original_mr)))
        own, theirs = _facts(pair.new.facts), _facts(parse_mr(mr) if mr else ())
        compared += 1
        if own != theirs:
            kinds.update(
                f"{side} {name}"
                for side, facts in (("ours", own - theirs), ("theirs", theirs - own))
                for name, _ in facts
            )
            differing.append({"text": text, "original": original_mr, "published": mr, "ours": sorted(own)})
    share = 1 - len(differing) / compared
    return {"pairs": compared, "agreeing": share, "only": dict(kinds.most_common())}, differing


def _published(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield text, cleaned and original representation of each row."""
    rows = delimited.rows(read_text(path), str(path))
    _, header = next(rows)
    places = [header.index(name) for name in ("ref", "mr", "orig_mr")]
    for _, cells in rows:
        text, mr, original = (cells[place].strip() for place in places)
        yield text, mr, original


def _next(pairs: Iterator[Pair], text: str, facts: Facts) -> Pair:
    """Return the next pair with a text and facts."""
    for pair in pairs:
        if pair.text == text and _facts(pair.record.facts) == facts:
            return pair
    raise SystemExit(f"the original file does not have the row {text!r} where the published one has it")


def _facts(facts: Iterable[Fact]) -> Facts:
    return frozenset((fact.attribute, fact.value) for fact in facts)


if __name__ == "__main__":
    main()
