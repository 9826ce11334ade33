"""The figures, each from the data that is written beside it."""
