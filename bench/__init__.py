"""The benchmark: the sidecar beside nginx and Envoy, doing the same work on the same machine."""
