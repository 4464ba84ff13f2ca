"""The only SQL.

Two dialects meet in `sqlite` and `postgres`; every other statement is written once, for both.
"""
