"""What runs a step of the engine: a network on some device behind one small protocol."""
