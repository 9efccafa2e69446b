"""Training an adapter or a whole model."""
