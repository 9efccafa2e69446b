"""Texts and references to scores, by group of records, and the report of them."""
