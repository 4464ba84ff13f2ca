"""Capabilities: what a session can do. One file each, its tools inside, and one line in the registry."""
