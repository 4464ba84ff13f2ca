"""The built-in capabilities and their tools."""
