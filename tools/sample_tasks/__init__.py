"""The grammars behind the bundled sample tasks: one module a task."""
