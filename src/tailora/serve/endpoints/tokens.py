"""vLLM's routes that turn text into tokens and back, and the version of the server."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from tailora import __version__
from tailora.data.chat_template import ChatTemplate
from tailora.serve.api_error import ApiError
from tailora.serve.dependencies import find_model, key_of, prepare
from tailora.serve.prompts import chat_prompt, text_prompt
from tailora.serve.schema.tokens import DetokenizeBody, TokenizeBody
from tailora.serve.served_model import ServedModel
from tailora.serve.service import Service


def token_routes(service: Service, template: ChatTemplate | None) -> APIRouter:
    """Return the routes.

    Args:
        service: engine, whose tokenizer is used.
        template: chat template of the base, if it has one.
    """
    router = APIRouter(tags=["tokens"])
    tokenizer = service.tokenizer

    @router.post("/tokenize", summary="Tokens of a prompt")
    async def tokenize(body: TokenizeBody, request: Request) -> dict[str, Any]:
        """Return the token ids of a text or a conversation, as the model gets them."""
        model = await _model(body.model, request, service)
        tokens = await prepare(request, _tokens, service, template, body, model)
        words = [tokenizer.token_bytes(token).decode(errors="replace") for token in tokens]
        return {
            "count": len(tokens),
            "max_model_len": service.context,
            "tokens": tokens,
            "token_strs": words if body.return_token_strs else None,
        }

    @router.post("/detokenize", summary="Text of tokens")
    async def detokenize(body: DetokenizeBody, request: Request) -> dict[str, str]:
        """Return the text of token ids, special tokens included."""
        await _model(body.model, request, service)
        if not all(0 <= token < tokenizer.vocab_size for token in body.tokens):
            raise ApiError(400, f"token ids must be from 0 to {tokenizer.vocab_size - 1}", param="tokens")
        return {"prompt": await prepare(request, lambda: tokenizer.decode(body.tokens, special=True))}

    @router.get("/version", summary="Version of the server")
    async def version() -> dict[str, str]:
        """Return the version of Tailora."""
        return {"version": __version__}

    return router


async def _model(name: str | None, request: Request, service: Service) -> ServedModel:
    registry, key = service.registry, key_of(request)
    if name is None:  # a server whose adapter is part of the network has no base
        names = (model.name for model in registry if key is None or key.may_use(model.name))
        name = next(names, registry.base.name)
    model = await find_model(request, registry, name)
    request.state.stats.model = None  # nothing is written with it
    return model


def _tokens(service: Service, template: ChatTemplate | None, body: TokenizeBody, model: ServedModel) -> list[int]:
    if body.messages is not None:
        return list(chat_prompt(model, template, body.messages, body.chat_template_kwargs))
    text = body.prompt or ""
    return list(text_prompt(model, text)) if body.add_special_tokens else service.tokenizer.encode(text)
