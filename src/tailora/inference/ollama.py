"""Modelfiles for Ollama whose template gives a model the prompts that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from tailora.core.errors import SettingsError
from tailora.data.prompts import PromptFormat, prompt_text
from tailora.data.values import Fact, Record

_QUOTES = '"""'


def modelfile(gguf: str, prompts: PromptFormat, *, context: int, licences: Sequence[str] = ()) -> str:
    """Return the text of a Modelfile.

    The template takes what Tailora puts into a prompt: the facts of a record, linearised, or a ready prompt.

    Args:
        gguf: the name of the model's file, in the same folder.
        prompts: the prompts that the model was trained on.
        context: largest number of tokens in a sequence.
        licences: texts of the licences of the base.

    Raises:
        SettingsError: no template gives the tokens of these prompts, or a text cannot be quoted.
    """
    before, after = prompts.around_text()
    _require_equal(prompts, before, after)
    end = prompts.tokenizer.decode([prompts.end], special=True)
    lines = [
        f"FROM ./{gguf}",
        f"TEMPLATE {_quoted(_literal(before) + '{{ .Prompt }}' + _literal(after))}",
        # Ollama's own defaults are 0.8 and 1.1; these are those of `tailora generate`.
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_ctx {context}",
        *([f'PARAMETER stop "{end}"'] if end.strip() and not {*end} & {*'"\n'} else []),
        *(f"LICENSE {_quoted(text)}" for text in licences),
    ]
    return "\n".join(lines) + "\n"


def _require_equal(prompts: PromptFormat, before: str, after: str) -> None:
    """Raise unless the template's tokens are those of the prompts, for some records."""
    ready = prompts.source == "text"
    for text in ("Blue Spice", "café, 24 Rue d'Été", "A"):
        facts = () if ready else (Fact(None, "name", text), Fact(None, "eatType", "pub"))
        record = Record("1", facts, (), prompt=text if ready else None)
        wanted = prompts.encode([record])[0]
        whole = before + prompt_text(record, style=prompts.style) + after
        own = (*prompts.tokenizer.bos_ids, *prompts.tokenizer.encode(whole, special=True))
        if own != wanted:
            what = "a template of Ollama does not give the tokens of the adapter's prompts"
            raise SettingsError(what, where="prompt_form", hint="send token ids, or serve it with Tailora")


def _literal(text: str) -> str:
    """Write a text so that Go's templates do not read it as an action."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    if _QUOTES in f'{text}""':
        what = f"a Modelfile cannot quote a text that contains {_QUOTES} or ends in a quotation mark"
        raise SettingsError(what, where="prompt_form", hint="serve the model with Tailora")
    return f"{_QUOTES}{text}{_QUOTES}"
