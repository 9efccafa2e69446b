"""One base model and its adapters over HTTP, by OpenAI's API and by an API for records. Handles HTTP, not tensors."""
