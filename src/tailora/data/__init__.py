"""From files of records to token ids and trees."""
