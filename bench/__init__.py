"""Benchmarks: measure a real server process from outside. They are not part of the tests.

Run `make bench`, or `python -m bench --help`. docs/reference/performance.md explains the figures.
"""
