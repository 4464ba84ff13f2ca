"""Doing what the turn asks for.

Assemble the layers, reason (one model call), act (one batch of tools), advance (the loop).
"""
