"""Which addresses may be reached, and the HTTP client for requests to the internet."""
