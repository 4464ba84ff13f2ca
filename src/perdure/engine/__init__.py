"""Doing what the turn asks for: assemble the layers, reason (one model call), act (one batch of tools), advance (the loop)."""
