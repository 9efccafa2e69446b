"""Jobs that consist of several training runs."""
