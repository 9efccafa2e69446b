"""From a base model and adapters to texts."""
