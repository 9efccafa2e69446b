"""Experiment trackers (TensorBoard, Weights & Biases, MLflow) behind one protocol, each through its own client."""
