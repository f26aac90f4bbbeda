"""What a Valkey or Redis server tells of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sidecar.valkey.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEEPS = "noeviction"


class ServerInfo(NamedTuple):
    """Parts of `INFO`; None for what the server does not tell, or not this user."""

    version: str | None = None
    """Such as "Valkey 9.1.2"."""
    policy: str | None = None
    """Its `maxmemory-policy`."""
    max_bytes: int | None = None
    """Its `maxmemory`; 0 for as much as there is."""

    @property
    def evicts(self) -> bool:
        """Whether it takes away what has not expired when its memory is full."""
        return bool(self.max_bytes) and self.policy not in (None, _KEEPS)


class Caller(Protocol):
    """Connections to the server."""

    async def call(self, *command: str | bytes | int) -> Any:
        """Return the server's reply. Raises ValkeyError."""


async def read_info(client: Caller) -> ServerInfo:
    """Ask the server; one that does not let us know has told nothing. Raises ValkeyError."""
    try:
        reply = await client.call("INFO")
    except Rejected:
        return ServerInfo()
    if not isinstance(reply, bytes):
        return ServerInfo()
    pairs = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    told = {name: value for name, _, value in pairs if value.isprintable()}
    return ServerInfo(_version(told), told.get("maxmemory_policy"), _number(told, "maxmemory"))


def _version(told: Mapping[str, str]) -> str | None:
    for name, line in (("Valkey", "valkey_version"), ("Redis", "redis_version")):
        if line in told:
            return f"{name} {told[line]}"
    return None


def _number(told: Mapping[str, str], name: str) -> int | None:
    value = told.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else None
