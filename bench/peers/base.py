"""What a proxy is told, and how one is started."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.credentials import Credentials

STATIC_PREFIX = "/api"
"""What is served under it: a JSON document of constant size."""
STREAM_PREFIX = "/stream"
"""What is served under it: event streams, downloads and uploads."""
KEEPALIVE = 16384
"""Connections to an upstream that a proxy may keep or open: more than any measurement needs."""
MIXED_KEYS = 8
"""How many of the keys a mixed load uses; the others use the first alone."""
UPLOAD_LIMIT = "4GiB"
"""What a proxy that bounds uploads must let through."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything of a run listens."""

    listen: int
    admin: int
    static: int
    stream: int


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where a proxy listens, what it forwards to, and whom it lets in."""

    ports: Ports
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Launch:
    """A program to start."""

    argv: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """One proxy in one set-up."""

    name: str
    prepare: Callable[[Path, Wiring], Launch]
    """Write the configuration into the directory and say what to start."""
    version: Callable[[], str]
    requests_only: bool = False
    """Measured with plain requests alone, not with streams and downloads."""


def identity_headers(credentials: Credentials) -> dict[str, str]:
    """Return what every proxy tells the upstream, by header; the key's id is the load's."""
    return {
        "x-organization-id": credentials.tenant.organization_id,
        "x-user-id": credentials.tenant.user_id,
        "x-organization-role": credentials.tenant.role,
        "x-auth-method": "api_key",
        "x-api-key-id": credentials.key.id,
    }


def from_wheel(module: str, package: str) -> Any:
    """Return a module of a package that brings a peer's program.

    Imported only where it is used, so that configurations can be built without it.
    Raises BenchError where the package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise BenchError(f"{package} is not installed; `make bench` installs it") from error


def program_from_wheel(name: str, package: str) -> Path:
    """Return a program that a package put beside the interpreter.

    Raises BenchError where the package is not installed.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise BenchError(f"{package} is not installed; `make bench` installs it")
    return path
