"""Scores of texts against references, in total and by group of records, and their report."""
