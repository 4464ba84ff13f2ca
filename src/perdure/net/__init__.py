"""Addresses that may be reached, and the HTTP client for the world outside."""
