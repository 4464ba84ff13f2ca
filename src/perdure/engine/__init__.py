"""Runs turns: resolves the agent, calls the model, runs tools.

`advance.py` is the loop that does these until the session is idle or parked.
"""
