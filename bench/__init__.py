"""Benchmarks: what the server costs, measured from outside on a real process. Never part of the tests.

Run `make bench`, or `python -m bench --help`. How to read the figures: docs/reference/performance.md.
"""
