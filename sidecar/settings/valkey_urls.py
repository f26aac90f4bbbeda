"""Where a Valkey or Redis server is: the form of URL that their clients share."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote, unquote_to_bytes

from pydantic import SecretStr

from sidecar.settings.addresses import HOST, PORT, SOCKET_PATH_BYTES
from sidecar.settings.forms import Form

VALKEY_PORT: Final = 6379

_MOST_DATABASES = 65_536
_URL = re.compile(
    r"(?P<scheme>valkeys?|rediss?)://(?P<userinfo>[^@/?#]*@)?"
    r"(?P<host>\[[^\]]*\]|[^:/?#@\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/(?P<database>[^/?#]*))?(?:\?(?P<query>[^#]*))?"
)
_SOCKET_URL = re.compile(
    r"unix://(?P<userinfo>[^@/?#]*@)?(?P<path>/[^?#]*[^/?#])(?:\?(?P<query>[^#]*))?"
)
_FILES = ("ca_file", "cert_file", "key_file")


@dataclass(frozen=True, slots=True)
class ValkeyURL:
    """A database of a server: `valkey://user:password@host:6379/0`, or `valkeys://…` for TLS.

    `redis` is the same as `valkey`; a server on this machine may be `unix:///path?db=0`.
    """

    host: str = ""
    """A name or an address (IPv6 without brackets); empty with `socket_path`."""
    port: int = VALKEY_PORT
    database: int = 0
    user: str | None = None
    """None for the server's default user."""
    password: SecretStr | None = None
    tls: bool = False
    ca_file: Path | None = None
    """Authorities that are trusted; None: the system's."""
    cert_file: Path | None = None
    """The client's own certificate, with `key_file`."""
    key_file: Path | None = None
    socket_path: Path | None = None

    def __str__(self) -> str:
        """Return the URL without its password and its files, for logs and messages."""
        user = "" if self.user is None else f"{quote(self.user, safe='')}@"
        if self.socket_path is not None:
            database = f"?db={self.database}" if self.database else ""
            return f"unix://{user}{self.socket_path}{database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"valkey{'s' * self.tls}://{user}{host}:{self.port}/{self.database}"


def _read(text: str) -> ValkeyURL | None:
    if not text.isprintable():
        return None
    if match := _SOCKET_URL.fullmatch(text):
        return _read_socket(match)
    match = _URL.fullmatch(text)
    return match and _read_server(match)


def _read_server(match: re.Match[str]) -> ValkeyURL:
    tls = match["scheme"] in {"valkeys", "rediss"}
    settings = _read_query(match["query"], _FILES)
    if settings and not tls:
        raise ValueError('must be "valkeys://…" where it names certificates')
    files = {name: _absolute(name, path) for name, path in settings.items()}
    if ("cert_file" in files) != ("key_file" in files):
        raise ValueError("must have both cert_file and key_file, or neither")
    user, password = _read_userinfo(match["userinfo"])
    return ValkeyURL(
        host=_host(match["host"]),
        port=_port(match["port"]),
        database=_database(match["database"]),
        user=user,
        password=password,
        tls=tls,
        **files,
    )


def _read_socket(match: re.Match[str]) -> ValkeyURL:
    path = _decoded(match["path"])
    if len(path.encode()) > SOCKET_PATH_BYTES:
        raise ValueError(f"must have a path of at most {SOCKET_PATH_BYTES} bytes")
    user, password = _read_userinfo(match["userinfo"])
    database = _database(_read_query(match["query"], ("db",)).get("db"))
    return ValkeyURL(database=database, user=user, password=password, socket_path=Path(path))


def _read_userinfo(userinfo: str | None) -> tuple[str | None, SecretStr | None]:
    """Return the user and the password in what stands before the host, `user:password@`."""
    user, colon, password = (userinfo or "").removesuffix("@").partition(":")
    if user and not colon:
        raise ValueError('must have a password with its user: "user:password@", or ":password@"')
    return (
        _decoded(user) if user else None,
        SecretStr(_decoded(password)) if colon else None,
    )


def _read_query(query: str | None, known: tuple[str, ...]) -> dict[str, str]:
    """Return the settings behind `?`. Values may be secret: messages hold names we know alone."""
    settings: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        if name not in known or name in settings:
            raise ValueError(f"must have no settings but {', '.join(known)}, each once")
        settings[name] = _decoded(value)
    return settings


def _host(text: str) -> str:
    host = HOST.read(text[1:-1] if text.startswith("[") else text)
    if host is None:
        raise ValueError("must have a host's name or address")
    return host


def _port(text: str | None) -> int:
    port = int(text) if text else VALKEY_PORT
    if not port or PORT.read(port) is None:
        raise ValueError("must have a port from 1 to 65535")
    return port


def _database(text: str | None) -> int:
    if not text:
        return 0
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) >= _MOST_DATABASES:
        raise ValueError("must have its database as a number, such as /0")
    return int(text)


def _absolute(name: str, path: str) -> Path:
    if not path.startswith("/"):
        raise ValueError(f"must have {name} as an absolute path")
    return Path(path)


def _decoded(text: str) -> str:
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        decoded = ""
    if not decoded or not decoded.isprintable():
        raise ValueError("must hold text in percent-encoded UTF-8, without control characters")
    return decoded


VALKEY_URL: Form[ValkeyURL] = Form(
    "Valkey URL",
    '"valkey://host:6379/0", "valkeys://…" for TLS (redis:// and rediss:// are the same), or'
    ' "unix:///path?db=0"',
    _read,
)

ValkeyAddress = Annotated[ValkeyURL, VALKEY_URL]
