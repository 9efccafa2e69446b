"""What texts of OpenAI's two APIs become: prompts as an adapter's training wrote them, or an error with the way."""

from __future__ import annotations

from collections.abc import Sequence

from tailora.core.errors import DataError, UserError
from tailora.data.chat_template import ChatTemplate
from tailora.serve.api_error import ApiError, from_user_error
from tailora.serve.registry import Model
from tailora.serve.schema.messages import Message


def text_prompt(model: Model, text: str) -> tuple[int, ...]:
    """The prompt of a text for /v1/completions.

    Raises:
        ApiError: the adapter was trained on records, and the text is not one.
    """
    try:
        return model.prompts.complete(text)
    except UserError as error:
        raise _refusal(error, "prompt", "; or send its token ids, or use /v1/records") from error


def chat_prompt(model: Model, template: ChatTemplate | None, messages: Sequence[Message]) -> tuple[int, ...]:
    """The prompt of a conversation for /v1/chat/completions.

    A base that was not trained here, and adapters made elsewhere, get it in the base's chat template. An adapter that
    was trained on ready prompts in a chat template gets it in that template. Any other gets the last message alone:
    its training had no conversations. Earlier records with their texts may stand before it, since they have no
    influence on it; anything that would have to have some is refused.

    Args:
        model: the base or an adapter.
        template: of the base, if it has one.
        messages: the conversation.

    Raises:
        ApiError: the conversation cannot be turned into a prompt of the adapter.
    """
    prompts = model.prompts
    if not prompts.trained:
        if template is None:
            what = "the base model has no chat template; use /v1/completions or /v1/records"
            raise ApiError(400, what, param="messages")
        return _in_template(template, messages)
    if prompts.template is not None and prompts.source == "text":
        return _in_template(prompts.template, messages)
    last = messages[-1]
    if any(message.speaker == "system" for message in messages):
        what = f"{model.name} was trained without system messages; remove them and send the record as a user message"
        raise ApiError(400, what, param="messages")
    if last.speaker != "user":
        raise ApiError(400, "the last message is not the user's; send the record in it", param="messages")
    asked = [message for message in messages if message.speaker == "user"]
    if len(asked) > 1 and prompts.source in ("text", "mixed"):
        what = f"{model.name} was trained on single prompts, not on conversations; send one user message"
        raise ApiError(400, what, param="messages")
    try:
        return [prompts.complete(message.text) for message in asked][-1]
    except UserError as error:
        raise _refusal(error, "messages", " in the user message; or use /v1/records") from error


def _in_template(template: ChatTemplate, messages: Sequence[Message]) -> tuple[int, ...]:
    try:
        return template.encode([{"role": message.speaker, "content": message.text} for message in messages])
    except UserError as error:
        raise from_user_error(error) from error


def _refusal(error: UserError, param: str, more: str) -> ApiError:
    told = from_user_error(error)
    return ApiError(told.status, f"{told}{more}" if isinstance(error, DataError) else str(told), param=param)
