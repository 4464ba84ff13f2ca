"""The wire: HTTP and server-sent events over the use cases. The only place that names the web framework."""
