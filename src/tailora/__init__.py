"""Tailora: LoRA fine-tuning of small language models that turn records into text."""

__version__ = "0.1.0"
