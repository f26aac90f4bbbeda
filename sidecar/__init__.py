"""Sidecar: an authenticating reverse proxy for APIs whose users and keys live in Better Auth."""

__version__ = "0.1.0"
