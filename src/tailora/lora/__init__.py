"""LoRA on torch modules."""
