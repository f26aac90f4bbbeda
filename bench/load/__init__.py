"""The clients of a run: they share a core with the upstream, never with the proxy."""
