"""Scores of texts against references and records."""
