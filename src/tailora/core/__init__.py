"""What every other package builds on: errors, settings, files, the machine."""
