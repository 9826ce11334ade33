"""Preference sets: rows of any known form, cleaned of duplicates and leaks, and audited."""
