"""Bodies of requests as pydantic models: their fields, ranges and descriptions, which /openapi.json shows."""
