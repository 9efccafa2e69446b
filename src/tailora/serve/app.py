"""The HTTP application: routes, errors, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tailora import __version__
from tailora.data.chat_template import ChatTemplate
from tailora.metrics.slots import load_rules
from tailora.serve.api_error import ApiError
from tailora.serve.endpoints import adapters, chat, completions, models, records, status
from tailora.serve.keys import KeyRing
from tailora.serve.metrics import Monitor
from tailora.serve.middleware import Gate
from tailora.serve.service import Service
from tailora.serve.settings import ServeSettings

PAGE = Path(__file__).with_name("page")
_OPEN = ("/health", "/ready")
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def build_app(
    service: Service, settings: ServeSettings, keys: KeyRing, template: ChatTemplate | None, monitor: Monitor
) -> FastAPI:
    """The application on a running service.

    Args:
        service: what writes.
        settings: which routes there are, and the limits.
        keys: that are asked for.
        template: of the base's conversations, if it has one.
        monitor: counts.
    """
    app = FastAPI(
        title="Tailora",
        version=__version__,
        description="Texts from records and prompts, by a base model and its LoRA adapters.",
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
    )
    texts = {"log_texts": settings.log_texts}
    app.include_router(completions.routes(service, **texts))
    app.include_router(chat.routes(service, template, **texts))
    app.include_router(records.routes(service, load_rules(), **texts))
    app.include_router(models.model_routes(service.registry))
    if settings.adapter_folder is not None:
        app.include_router(adapters.adapter_routes(service.registry, settings.timeout))
    app.include_router(status.operation_routes(service, monitor))
    _add_page(app)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Gate, monitor=monitor, keys=keys, guarded=_guarded, max_body=settings.max_body)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # OpenAI's client in a browser sends a dozen of its own; only origins are chosen
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return app


def _guarded(path: str) -> bool:
    """Whether a path needs a key, where there are keys: all but whether the server lives, and the page's own files."""
    return path not in (*_OPEN, "/") and not path.startswith("/page/")


def _add_page(app: FastAPI) -> None:
    files = _PageFiles(directory=PAGE)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.mount("/page", files)


class _PageFiles(StaticFiles):
    """The page's files, with headers that keep it from loading or being put into anything else."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_PAGE_HEADERS)
        return response


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    """One line for all that is wrong with a body."""
    assert isinstance(error, RequestValidationError)
    told: dict[str, list[str]] = {}
    for each in error.errors():
        place, message = _problem(each, error.body)
        told.setdefault(place, []).append(message)
    problems = [(place, " or ".join(dict.fromkeys(messages))) for place, messages in told.items()]
    places = [place for place, _ in problems if place]
    shown = "; ".join(f"{place}: {text}" if place else text for place, text in problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    answer = ApiError(400, shown + more, param=places[0] if places else None)
    return JSONResponse(answer.body, answer.status)


_SCALARS = ("str", "int", "float", "bool")


def _place(error: Any, body: Any) -> str:
    """The path of a field in the body, without pydantic's names for the alternatives of its type."""
    path = error["loc"][1:] if error["loc"][:1] == ("body",) else error["loc"]
    kept, value = [], body
    for number, part in enumerate(path):
        inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if inside:
            value = value[part]
        elif number + 1 < len(path) or not isinstance(value, dict) or "[" in str(part) or part in _SCALARS:
            continue  # an alternative's name; a field that is absent from its object stays
        kept.append(str(part))
    return ".".join(kept)


def _problem(error: Any, body: Any) -> tuple[str, str]:
    place = _place(error, body)
    told = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return "", f"the body is no JSON ({error.get('ctx', {}).get('error', told)}); send one JSON object"
    if error["type"] == "model_attributes_type" and not place:
        return "", "the body is no JSON object; send one, with `Content-Type: application/json`"
    if error["type"] == "extra_forbidden":
        return place, "there is no such field; leave it out"
    if error["type"] == "missing":
        return place, "is missing"
    return place, told


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: f"there is nothing at {request.url.path}", 405: f"{request.url.path} takes no {request.method}"}
    what = told.get(error.status_code, str(error.detail))
    answer = ApiError(error.status_code, f"{what}; /openapi.json describes what there is", headers=error.headers)
    return JSONResponse(answer.body, answer.status, answer.headers)
