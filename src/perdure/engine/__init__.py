"""Doing what the turn asks for.

Resolve the agent, call the model, run tools, and advance: the loop that does these in turn.
"""
