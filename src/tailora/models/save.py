"""A network and its tokenizer as a model folder that transformers loads."""

from __future__ import annotations

import shutil
from pathlib import Path

from tailora.models.load import Base, quiet_transformers

# What a tokenizer, its chat templates and its end-of-text tokens are read from.
TEXT_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    *("added_tokens.json", "chat_template.jinja", "additional_chat_templates/*.jinja", "generation_config.json"),
)


def save_model(base: Base, folder: Path) -> None:
    """Write a plain network (nothing attached) and its tokenizer in Hugging Face layout into an existing folder.

    The tokenizer's files, its chat templates and generation_config.json are copied unchanged, so that the folder
    begins and ends texts as the base does.
    """
    with quiet_transformers():
        base.model.save_pretrained(folder, safe_serialization=True)
    for pattern in TEXT_FILES:
        for source in sorted(base.folder.glob(pattern)):
            target = folder / source.relative_to(base.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    if not (folder / "tokenizer.json").is_file():
        base.tokenizer.save(folder)
