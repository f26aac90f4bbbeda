"""What stops the benchmark."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement that cannot be trusted or made; the message says which and why."""
