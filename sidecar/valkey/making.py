"""The client for a server, where its library is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.valkey.errors import DriverMissing

if TYPE_CHECKING:
    from sidecar.settings.valkey_urls import ValkeyURL
    from sidecar.valkey.client import Client


def make_client(url: ValkeyURL, *, timeout_s: float) -> Client:
    """Return a client for the server at *url*, not connected yet. Raises DriverMissing."""
    try:
        from sidecar.valkey.client import Client  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        if error.name != "valkey":
            raise
        raise DriverMissing(
            'Valkey needs its client library: install Sidecar with its extra, "sidecar[valkey]"'
        ) from error
    return Client(url, timeout_s=timeout_s)
