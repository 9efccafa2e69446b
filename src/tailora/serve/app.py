"""The HTTP application: routes, middleware, errors and the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tailora import __version__
from tailora.data.chat_template import ChatTemplate
from tailora.metrics.slot_rules import load_rules
from tailora.serve.api_error import ApiError
from tailora.serve.endpoints.adapters import adapter_routes
from tailora.serve.endpoints.chat import chat_routes
from tailora.serve.endpoints.completions import completion_routes
from tailora.serve.endpoints.configuration import configuration_routes
from tailora.serve.endpoints.files import LARGER, file_routes
from tailora.serve.endpoints.files import ROUTE as FILE_ROUTE
from tailora.serve.endpoints.models import model_routes
from tailora.serve.endpoints.records import record_routes
from tailora.serve.endpoints.responses import response_routes
from tailora.serve.endpoints.status import status_routes
from tailora.serve.endpoints.tokens import token_routes
from tailora.serve.keys import KeyRing
from tailora.serve.metrics import ServerMetrics
from tailora.serve.middleware import RequestMiddleware
from tailora.serve.reloading import Reloader
from tailora.serve.schema.error import ERROR_RESPONSES
from tailora.serve.service import Service
from tailora.serve.settings import ServeSettings
from tailora.serve.validation import invalid_body

if TYPE_CHECKING:
    from tailora.serve.tracing import Tracing  # needs the extra `otel`

PAGE = Path(__file__).with_name("page")
_WITHOUT_KEY = ("/health", "/ready", "/")
RATE_HEADERS = tuple(
    f"X-Ratelimit-{what}-{kind}" for kind in ("Requests", "Tokens") for what in ("Limit", "Remaining", "Reset")
)
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def build_app(
    service: Service,
    settings: ServeSettings,
    keys: KeyRing,
    template: ChatTemplate | None,
    metrics: ServerMetrics,
    reloader: Reloader,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Return the application on a running service.

    Args:
        service: engine.
        settings: which routes exist, and their limits.
        keys: API keys that are accepted; an empty ring asks for none.
        template: chat template of the base, if it has one.
        metrics: counters of requests.
        reloader: reads the configuration again.
        tracing: records each request when it ends; None for no traces.
    """
    app = FastAPI(
        title="Tailora",
        version=__version__,
        description="Writes texts about records and after prompts with a base model and its LoRA adapters.",
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # `RequestMiddleware` removes them
        responses=ERROR_RESPONSES,
    )
    app.include_router(completion_routes(service, log_texts=settings.log_texts))
    app.include_router(chat_routes(service, template, log_texts=settings.log_texts))
    app.include_router(response_routes(service, template, log_texts=settings.log_texts))
    app.include_router(token_routes(service, template))
    app.include_router(record_routes(service, load_rules(), log_texts=settings.log_texts))
    app.include_router(file_routes(service.registry))
    app.include_router(model_routes(service.registry))
    if settings.adapter_folder is not None:
        app.include_router(adapter_routes(service.registry, settings.timeout))
    app.include_router(status_routes(service, metrics))
    app.include_router(configuration_routes(reloader))
    _add_page(app)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(HTTPException, _http_error)
    limits = {FILE_ROUTE: LARGER * settings.max_body}
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        keys=keys,
        needs_key=_needs_key,
        max_body=lambda path: limits.get(path, settings.max_body),
        lenient=settings.lenient,
        tracing=tracing,
    )
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # OpenAI's client in a browser sends a dozen of its own; origins are what is chosen
            expose_headers=["X-Request-Id", "Retry-After", "X-Ignored-Fields", *RATE_HEADERS],
        )
    return app


def _needs_key(path: str) -> bool:
    """Whether a path needs a key if the server has keys: all but the probes and the page's own files."""
    return path not in _WITHOUT_KEY and not path.startswith("/page/")


def _add_page(app: FastAPI) -> None:
    files = _PageFiles(directory=PAGE)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.mount("/page", files)


class _PageFiles(StaticFiles):
    """The page's files, with headers that forbid it other hosts' scripts, and other pages to frame it."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_PAGE_HEADERS)
        return response


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _invalid_body(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = invalid_body(error)
    return JSONResponse(problem.body, problem.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    messages = {404: f"{path} does not exist", 405: f"{path} does not accept {request.method}"}
    message = f"{messages.get(error.status_code, str(error.detail))}; GET /openapi.json lists all routes"
    headers = dict(error.headers or {})
    if "GET" in headers.get("Allow", ""):
        headers["Allow"] = "GET, HEAD"
    response = ApiError(error.status_code, message, headers=headers)
    return JSONResponse(response.body, response.status, response.headers)
