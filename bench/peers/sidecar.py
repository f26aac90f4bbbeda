"""The sidecar itself, on a SQLite database of its own."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import sidecar
from bench.peers.base import (
    STATIC_PREFIX,
    STREAM_PREFIX,
    UPLOAD_LIMIT,
    Launch,
    Peer,
)
from bench.ports import HOST
from bench.store import write_store

if TYPE_CHECKING:
    from pathlib import Path

    from bench.peers.base import Wiring

_BUSY = 1100
"""Connections to an upstream: descriptors are kept for all of them, and clients get the rest."""
_STREAMS = 8100

_CONFIGURATION = """\
[listen]
host = "{host}"
port = {listen}

[admin]
host = "{host}"
port = {admin}

[store]
url = "sqlite:///{database}"

[log]
access = {access}

[upstreams.static]
urls = ["http://{host}:{static}"]
max_connections = {busy}

[upstreams.stream]
urls = ["http://{host}:{stream}"]
max_connections = {streams}

[[routes]]
path = "{static_prefix}"
upstream = "static"
auth = ["api_key"]

[[routes]]
path = "{stream_prefix}"
upstream = "stream"
auth = ["api_key"]
body = "{upload_limit}"
"""


def configuration(wiring: Wiring, database: Path, *, access_log: bool) -> str:
    """Return the sidecar's configuration file."""
    return _CONFIGURATION.format(
        host=HOST,
        listen=wiring.ports.listen,
        admin=wiring.ports.admin,
        static=wiring.ports.static,
        stream=wiring.ports.stream,
        database=database,
        access="true" if access_log else "false",
        busy=_BUSY,
        streams=_STREAMS,
        static_prefix=STATIC_PREFIX,
        stream_prefix=STREAM_PREFIX,
        upload_limit=UPLOAD_LIMIT,
    )


def _prepare(
    directory: Path,
    wiring: Wiring,
    *,
    access_log: bool,
    limited: bool = True,
    workers: int = 1,
    extra: str = "",
) -> Launch:
    database = directory / "store.db"
    write_store(database, wiring.credentials, limited=limited)
    path = directory / "sidecar.toml"
    text = configuration(wiring, database, access_log=access_log)
    path.write_text(text.replace("[listen]", f"[listen]\nworkers = {workers}") + extra)
    return Launch([sys.executable, "-m", "sidecar", "run", "--config", str(path)])


def _version() -> str:
    return sidecar.__version__


SIDECAR = Peer("sidecar", partial(_prepare, access_log=False), _version)
SIDECAR_LOGGING = Peer(
    "sidecar, access log", partial(_prepare, access_log=True), _version, requests_only=True
)


def counting(
    name: str, *, limited: bool = True, workers: int = 1, valkey_port: int | None = None
) -> Peer:
    """Return the sidecar as it counts requests in one way or the other."""
    extra = ""
    if valkey_port is not None:
        extra = f'\n[limits]\nbackend = "valkey://{HOST}:{valkey_port}"\n'
    prepare = partial(_prepare, access_log=False, limited=limited, workers=workers, extra=extra)
    return Peer(name, prepare, _version, requests_only=True)
