"""Listeners for operators; never the public port."""
