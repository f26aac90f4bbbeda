"""The demonstration's directory: secrets, the database, and the configuration it runs on."""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING

from sidecar.store.base import StoreError
from sidecar.store.schema import create

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HOST = "127.0.0.1"

_CONFIG = """\
# Written anew at every start of `sidecar demo`.

[listen]
host = "{host}"
port = {port}
max_connections = 1000

[listen.timeouts]
drain = "5s"

[admin]
host = "{host}"
port = 0                            # any free one

[store]
url = {store_url}

[session]
secrets = ["file:secret"]

[identity]
internal_token = "file:internal-token"

[log]
format = "text"

[upstreams.chat]
urls = ["{chat}"]

[upstreams.export]
urls = ["{export}"]

[[routes]]
path = "/v1/chat"
upstream = "chat"
auth = ["api_key", "session"]

[[routes]]
path = "/api/export"
upstream = "export"
auth = ["api_key"]

[[routes]]
path = "/demo"                      # the page of the live chat
upstream = "chat"
auth = []                           # public
"""


class DirectoryUnusable(Exception):
    """The directory cannot hold a demonstration; the message is for whoever chose it."""


class Workspace:
    """A directory for its owner's eyes; what it holds already is used again."""

    def __init__(self, path: Path) -> None:
        """Make the directory and its content where they are missing.

        Raises DirectoryUnusable.
        """
        self.path = path.absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.secret = _kept(self.path / "secret")
            self.internal_token = _kept(self.path / "internal-token")
            if not self.database.exists():
                create(self.database)
        except (OSError, UnicodeDecodeError, StoreError) as error:
            raise DirectoryUnusable(f"{path} cannot be used: {error}") from error

    @property
    def database(self) -> Path:
        """Where Better Auth's tables are."""
        return self.path / "better-auth.db"

    def write_config(self, port: int, upstreams: Mapping[str, str]) -> Path:
        """Write the configuration for a public listener on *port* and return its path.

        *upstreams* holds the URLs of `chat` and `export`. Raises DirectoryUnusable.
        """
        config = self.path / "sidecar.toml"
        text = _CONFIG.format(
            host=HOST,
            port=port,
            # A JSON string is a TOML string.
            store_url=json.dumps(f"sqlite:///{self.database}", ensure_ascii=False),
            **upstreams,
        )
        try:
            config.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DirectoryUnusable(f"{self.path} cannot be used: {error}") from error
        return config


def _kept(path: Path) -> str:
    """Return the secret in the file at *path*; where there is none, a new one is kept there."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, mode=0o600)
    with os.fdopen(descriptor, "r+", encoding="ascii") as file:
        secret = file.read()
        if not secret:
            secret = secrets.token_urlsafe(32)
            file.write(secret)
    return secret
