"""The grammars behind the bundled sample tasks: one module per task."""
