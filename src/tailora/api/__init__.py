"""The Python API: what `import tailora` offers, with the settings, errors and results of the command line."""
