"""Jobs made of several training runs."""
