"""A durable harness for LLM agents."""

__version__ = "0.2.0"
