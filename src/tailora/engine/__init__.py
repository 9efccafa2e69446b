"""Text by many adapters at once from one copy of a base model."""
