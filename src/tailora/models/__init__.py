"""Base models by name, from disk or the hub."""
