"""Conversations over real sockets: what only the whole sidecar can show."""
