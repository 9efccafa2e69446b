"""Rows of `outputs.jsonl`: one text per row, with its tokens and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tailora.core.files import write_text
from tailora.inference.rerank import Chosen
from tailora.inference.texts import Candidate, Prompt


def output_row(record_id: str, prompt: Prompt, chosen: Chosen, *, logprobs: bool = False) -> dict[str, Any]:
    """Return a text as a row of outputs.jsonl, with the log-probability of each token if requested."""
    generation = chosen.generation
    row: dict[str, Any] = {
        "id": record_id,
        "adapter": dict(prompt.mixture) or prompt.adapter,
        **_values(generation, logprobs),
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
    }
    if chosen.slot_errors is not None:
        row["slot_errors"] = list(chosen.slot_errors)
    if len(generation.candidates) > 1:
        row["candidates"] = [_values(candidate, logprobs) for candidate in generation.candidates]
    return row


def _values(text: Candidate, logprobs: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "text": text.text,
        "token_ids": list(text.token_ids),
        "logprob": round(text.logprob, 6),
        "finish_reason": text.finish_reason,
    }
    if logprobs:
        values["logprobs"] = [round(logprob, 6) for logprob in text.logprobs]
    return values


def write_outputs(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write outputs.jsonl atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def is_outputs(start: bytes) -> bool:
    """Return whether a file that begins with these bytes holds texts that `generate` wrote."""
    try:
        row = json.loads(start.partition(b"\n")[0])
    except ValueError:  # also of a line that is longer than what was read
        return start.startswith(b'{"id": ') and b'"token_ids": [' in start
    return isinstance(row, dict) and {"text", "finish_reason"} <= row.keys()


def count_texts(path: Path) -> int:
    """Return the number of lines that are not blank, which is the number of texts of an outputs.jsonl."""
    with path.open("rb") as file:
        return sum(not line.isspace() for line in file)
