"""Doors: other protocols in front of the same use cases, one folder each."""
