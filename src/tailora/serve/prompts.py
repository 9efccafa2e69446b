"""Prompts of OpenAI's two routes: token ids as the adapter's training built them, or an error that says how to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tailora.core.errors import DataError, UserError
from tailora.data.chat_template import ChatTemplate
from tailora.serve.api_error import ApiError, from_user_error
from tailora.serve.schema.messages import Message
from tailora.serve.served_model import ServedModel


def text_prompt(model: ServedModel, text: str) -> tuple[int, ...]:
    """Return the prompt for a text of /v1/completions.

    Raises:
        ApiError: the adapter was trained on records, and the text is not a record.
    """
    try:
        return model.prompts.complete(text)
    except UserError as error:
        raise _not_a_record(error, "prompt", "Alternatively, send token ids, or the facts to /v1/records") from error


def chat_prompt(
    model: ServedModel,
    template: ChatTemplate | None,
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None = None,
) -> tuple[int, ...]:
    """Return the prompt for a conversation of /v1/chat/completions.

    A base that was not trained here, and adapters made elsewhere, get the conversation in the base's chat template. An
    adapter that was trained on ready prompts in a chat template gets it in that template. Any other adapter gets the
    last message alone, because its training had no conversations. Earlier records and their texts may precede it, since
    they have no influence on it; messages that should have an influence are refused.

    Args:
        model: base or adapter.
        template: chat template of the base, if it has one.
        messages: the conversation.
        variables: further variables of the base's template, which no prompt of Tailora's training has.

    Raises:
        ApiError: the conversation cannot become a prompt of the model.
    """
    prompts = model.prompts
    if not prompts.trained:
        if template is None:
            message = "the base model has no chat template; use /v1/completions or /v1/records"
            raise ApiError(400, message, param="messages")
        return _in_template(template, messages, variables)
    if variables:
        message = f"{model.name} was trained with prompts that have no such variables; remove the field"
        raise ApiError(400, message, param="chat_template_kwargs")
    if prompts.template is not None and prompts.source == "text":
        return _in_template(prompts.template, messages)
    if any(message.speaker == "system" for message in messages):
        message = f"{model.name} was trained without system messages; remove them, and send the record as user message"
        raise ApiError(400, message, param="messages")
    if messages[-1].speaker != "user":
        raise ApiError(400, "the last message must be a user message; send the record in it", param="messages")
    questions = [message for message in messages if message.speaker == "user"]
    if len(questions) > 1 and prompts.source in ("text", "mixed"):
        message = f"{model.name} was trained on single prompts, not on conversations; send one user message"
        raise ApiError(400, message, param="messages")
    try:
        return [prompts.complete(message.text) for message in questions][-1]
    except UserError as error:
        advice = "The record must be the whole user message; alternatively, send it to /v1/records"
        raise _not_a_record(error, "messages", advice) from error


def _in_template(
    template: ChatTemplate, messages: Sequence[Message], variables: Mapping[str, Any] | None = None
) -> tuple[int, ...]:
    try:
        return template.encode([{"role": message.speaker, "content": message.text} for message in messages], variables)
    except UserError as error:
        raise from_user_error(error) from error


def _not_a_record(error: UserError, param: str, advice: str) -> ApiError:
    """The response to a text that is not a record, with a second sentence of advice for the route."""
    response = from_user_error(error)
    message = f"{response}. {advice}." if isinstance(error, DataError) else str(response)
    return ApiError(response.status, message, param=param)
