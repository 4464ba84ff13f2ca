"""The database layer: the only package that contains SQL.

`sqlite` and `postgres` implement the two dialects; every other statement is written once, for both.
"""
