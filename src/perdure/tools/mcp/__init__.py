"""MCP servers as capabilities: their tools, resources and prompts."""
