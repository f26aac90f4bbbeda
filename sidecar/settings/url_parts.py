"""What the URLs of databases and of Valkey servers have in common: their parts, read and checked.

Each raises ValueError with what the URL must be or have; it quotes nothing that may be secret.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from sidecar.settings.addresses import HOST, PORT

if TYPE_CHECKING:
    from collections.abc import Collection


def decoded(text: str) -> str:
    """Return *text* without its percent-encoding: it has to be text, without control characters."""
    try:
        plain = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        plain = ""
    if not plain or not plain.isprintable():
        raise ValueError("must hold text in percent-encoded UTF-8, without control characters")
    return plain


def read_query(query: str | None, known: Collection[str]) -> dict[str, str]:
    """Return the settings behind `?`, decoded: those that are *known*, each once at most.

    Names and values may be secret, by a slip of whoever wrote them.
    """
    settings: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        if name not in known or name in settings:
            raise ValueError(f"must have no settings but {', '.join(known)}, each once")
        settings[name] = decoded(value)
    return settings


def read_host(text: str) -> str:
    """Return a name or an address, without the brackets of IPv6."""
    host = HOST.read(text[1:-1] if text.startswith("[") else text)
    if host is None:
        raise ValueError("must have a host's name or address")
    return host


def read_port(text: str | None, default: int) -> int:
    """Return the port, or the *default* where there is none."""
    port = int(text) if text else default
    if not port or PORT.read(port) is None:
        raise ValueError("must have a port from 1 to 65535")
    return port


def read_file(name: str, path: str) -> Path:
    """Return where the file of the setting *name* is."""
    if not path.startswith("/"):
        raise ValueError(f"must have {name} as an absolute path")
    return Path(path)
