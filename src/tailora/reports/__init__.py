"""Tables and plots made from files."""
