"""Choosing the texts of one language from files with several."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tailora.core.errors import DataError
from tailora.data.values import Reference, Row

ALL = "all"
"""In place of a language: use every text, with one record for each language."""

_SUGGESTED = 3  # languages that an error suggests, the most frequent first


def same_tag(tag: str) -> str:
    """Return a language tag in the form in which tags are compared: `en-us` for `en_US`."""
    return tag.strip().replace("_", "-").casefold()


def matches(tag: str, language: str) -> bool:
    """Whether a tag is a language or a variety of it: `en` matches `EN` and `en-US` (RFC 4647, basic filtering)."""
    own, wanted = same_tag(tag), same_tag(language)
    return own == wanted or own.startswith(f"{wanted}-")


def in_language(
    rows: list[Row], where: str, language: str | None, *, needed: bool, trained: str | None = None
) -> list[Row]:
    """Return the rows with their texts in one language; each row's own language becomes that of its texts.

    Args:
        rows: of a file.
        where: the file, for messages.
        language: a language, `ALL`, or None: every text, if they are in one language.
        needed: texts are used, so several languages must be distinguished.
        trained: the language of an adapter's training, the default where the file holds several.

    Raises:
        DataError: the texts are in several languages and none is chosen, or none is in the chosen one.
    """
    spellings: dict[str, str] = {}
    tags = [text.language for row in rows for text in row.texts if text.language is not None]
    tags += [row.language for row in rows if row.language is not None and not row.texts]
    counts = Counter(same_tag(tag) for tag in tags)
    for tag in tags:
        spellings.setdefault(same_tag(tag), tag)
    shown = ", ".join(f"{spellings[tag]}: {count:,}" for tag, count in counts.most_common())
    if language is None and not needed:
        return rows
    if language is None and len(counts) > 1:
        if trained is None or not (trained == ALL or any(matches(tag, trained) for tag in counts)):
            names = [spellings[tag] for tag, _ in counts.most_common(_SUGGESTED)] + [ALL]
            what = f"contains texts in several languages ({shown})"
            hint = f"choose one with {' or '.join(f'--language {name}' for name in names)}"
            raise DataError(what, where=where, hint=hint)
        language = trained
    if language is None or language == ALL:
        return [part for row in rows for part in _by_language(row, spellings)]
    wanted = [tag for tag in counts if matches(tag, language)]
    if not wanted and (needed or counts):
        what = f"contains no text in the language {language!r}"
        hint = f"choose one of those that it names ({shown})" if counts else "leave --language out: it names none"
        raise DataError(what, where=where, hint=hint)
    name = spellings[wanted[0]] if len(wanted) == 1 else language
    kept = []
    for row in rows:
        if row.language is not None and same_tag(row.language) not in wanted:
            continue
        own = tuple(text for text in row.texts if text.language is not None and same_tag(text.language) in wanted)
        if own or not row.texts or not needed:
            kept.append(_of_language(replace(row, texts=own), name))
    return kept


def _of_language(row: Row, language: str | None) -> Row:
    return replace(row, language=language) if language is not None and row.texts else row


def _by_language(row: Row, spellings: dict[str, str]) -> list[Row]:
    """Return one row for each language of a row's texts."""
    languages: dict[str | None, list[Reference]] = {}
    for text in row.texts:
        name = None if text.language is None else spellings[same_tag(text.language)]
        languages.setdefault(name, []).append(text)
    if len(languages) < 2:
        return [_of_language(row, next(iter(languages), None))]
    return [
        replace(row, id=None if row.id is None else f"{row.id}/{name}", texts=tuple(own), language=name)
        for name, own in languages.items()
    ]
