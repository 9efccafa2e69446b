"""Training on prefix trees: batches of trees, attention over them, the forward pass, its loss, and its check."""
