"""Readers and writers of the adapter files that other programs use."""
