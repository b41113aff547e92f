"""What is piped to a host: each file answers one kind of request."""
