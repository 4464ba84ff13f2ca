"""The rules of Perdure, pure: no input or output, no clock, no randomness (they come in as arguments)."""
