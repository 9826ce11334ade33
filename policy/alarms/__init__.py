"""Signs of an ill run: their table, how each is seen, and what is done about it."""
