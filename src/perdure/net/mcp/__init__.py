"""The client side of MCP: both eras of the protocol over HTTP, and local commands."""
