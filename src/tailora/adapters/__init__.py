"""An adapter as a value: settings, tensors, file formats and arithmetic, without torch."""
