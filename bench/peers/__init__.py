"""The proxies that are measured, each set up for the same work."""
