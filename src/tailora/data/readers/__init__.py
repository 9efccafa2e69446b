"""One module per family of formats: each turns the text of a file into records."""
