"""The demonstration: a store, two upstreams and a sidecar in front of them."""
