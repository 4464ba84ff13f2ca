"""HTTP and server-sent events on top of the use cases."""
