"""Processes of their own for code that a model wrote."""
