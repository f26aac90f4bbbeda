"""The data plane: bytes from a client, decided on, and forwarded to an upstream."""
