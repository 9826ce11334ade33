"""Rows without padding: their layout, attention over them, and layers that do no more than they must."""
