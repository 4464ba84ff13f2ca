"""Separate processes that run code written by models."""
