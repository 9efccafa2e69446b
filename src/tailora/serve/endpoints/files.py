"""POST /v1/files/read: the records of a data file, for pages and programs that write about its rows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from tailora.core.errors import DataError, UserError
from tailora.data.records import DataFile, parse
from tailora.data.trained_reading import TrainedReading
from tailora.serve.api_error import from_user_error
from tailora.serve.dependencies import find_model, prepare, stats_of
from tailora.serve.registry import Registry
from tailora.serve.schema.files import FileBody
from tailora.serve.served_model import ServedModel

ROUTE = "/v1/files/read"
LARGER = 8  # a file may be larger than the body of another request by this factor
MOST_RECORDS = 20_000
_LINES_A_RECORD = 5  # of pretty-printed files, on average


def file_routes(registry: Registry) -> APIRouter:
    """Return the route.

    Args:
        registry: models.
    """
    router = APIRouter(tags=["records"])
    one_at_a_time = asyncio.Lock()  # a file takes many times its size while it is read

    @router.post(ROUTE, summary="Read the records of a data file")
    async def read(body: FileBody, request: Request) -> dict[str, Any]:
        """Read a table, JSON lines or any other data format of Tailora, and return one record for each row.

        `columns` lists the columns of a table with their roles. A file may be eight times as large as other bodies
        (the server's setting `max_body`) and have up to 20,000 records. With `model`, `warnings` names facts that the
        model was not trained on.
        """
        model = None if body.model is None else await find_model(request, registry, body.model)
        stats_of(request).model = None  # nothing is written with it
        async with one_at_a_time:
            return await prepare(request, _answer, body, model)

    return router


def _answer(body: FileBody, model: ServedModel | None) -> dict[str, Any]:
    try:
        data = _parsed(body, TrainedReading.of_meta({} if model is None else model.meta))
    except UserError as error:
        raise from_user_error(error, param="text") from error
    return {
        "object": "file",
        "format": data.format,
        "columns": [{"name": name, "role": role} for name, role in data.roles.items()],
        "notes": list(data.notes),
        "warnings": [] if model is None else model.warnings(data.rows),
        "data": [
            {
                "id": row.id,
                "facts": [[fact.subject, fact.attribute, fact.value] for fact in row.facts],
                "references": list(row.references),
            }
            for row in data.rows
        ],
    }


def _parsed(body: FileBody, trained: TrainedReading | None) -> DataFile:
    """Read the file.

    Raises:
        UserError: it cannot be read, is too large, or has prompts in place of facts.
    """
    hint = "use `tailora generate`, or split the file"
    # Both are counted before anything is parsed, so that a small body cannot take much memory.
    lines = max(body.text.count("\n"), body.text.count("\r"), body.text.count("{"))
    if lines > MOST_RECORDS * _LINES_A_RECORD:
        limit = MOST_RECORDS * _LINES_A_RECORD
        raise DataError(f"the file has {lines:,} lines or objects; the limit is {limit:,}", where=body.name, hint=hint)
    if not body.text.strip():
        raise DataError("the file is empty", where=body.name, hint="give a file with records")
    data = parse(
        body.text,
        Path(body.name),
        format=body.format,
        columns=body.columns,
        language="all",
        texts="optional",
        trained=trained,
    )
    if len(data.rows) > MOST_RECORDS:
        what = f"the file has {len(data.rows):,} records; the limit is {MOST_RECORDS:,}"
        raise DataError(what, where=body.name, hint=hint)
    if any(not row.facts for row in data.rows):
        raise DataError("contains prompts, not facts", where=body.name, hint="choose columns of facts")
    return data
