"""Use cases: one function, one transaction.

Authorisation and rules here; the wire is `api`'s, the doing is `engine`'s.
"""
