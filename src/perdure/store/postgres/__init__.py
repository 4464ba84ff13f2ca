"""PostgreSQL implementations of the store's ports."""
