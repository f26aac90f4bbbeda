"""A Valkey or Redis server: how it is reached, and what is told when it is not."""
