"""Doing what the turn asks for.

Resolve the agent, reason (one model call), act (one batch of tools), advance (the loop).
"""
