"""What answers keys: connections, TLS, an event loop for requests."""
