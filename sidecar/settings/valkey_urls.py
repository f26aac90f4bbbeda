"""Where a Valkey or Redis server is: the form of URL that their clients share."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import quote

from pydantic import SecretStr

from sidecar.settings.addresses import SOCKET_PATH_BYTES
from sidecar.settings.forms import Form
from sidecar.settings.url_parts import decoded, read_file, read_host, read_port, read_query

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
    settings = read_query(match["query"], _FILES)
    if settings and not tls:
        raise ValueError('must be "valkeys://…" where it names certificates')
    files = {name: read_file(name, path) for name, path in settings.items()}
    if ("cert_file" in files) != ("key_file" in files):
        raise ValueError("must have both cert_file and key_file, or neither")
    user, password = _read_userinfo(match["userinfo"])
    return ValkeyURL(
        host=read_host(match["host"]),
        port=read_port(match["port"], VALKEY_PORT),
        database=_database(match["database"]),
        user=user,
        password=password,
        tls=tls,
        **files,
    )


def _read_socket(match: re.Match[str]) -> ValkeyURL:
    path = decoded(match["path"])
    if len(path.encode()) > SOCKET_PATH_BYTES:
        raise ValueError(f"must have a path of at most {SOCKET_PATH_BYTES} bytes")
    user, password = _read_userinfo(match["userinfo"])
    database = _database(read_query(match["query"], ("db",)).get("db"))
    return ValkeyURL(database=database, user=user, password=password, socket_path=Path(path))


def _read_userinfo(userinfo: str | None) -> tuple[str | None, SecretStr | None]:
    """Return the user and the password in what stands before the host, `user:password@`."""
    user, colon, password = (userinfo or "").removesuffix("@").partition(":")
    if user and not colon:
        raise ValueError('must have a password with its user: "user:password@", or ":password@"')
    return (
        decoded(user) if user else None,
        SecretStr(decoded(password)) if colon else None,
    )


def _database(text: str | None) -> int:
    if not text:
        return 0
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) >= _MOST_DATABASES:
        raise ValueError("must have its database as a number, such as /0")
    return int(text)


VALKEY_URL: Form[ValkeyURL] = Form(
    "Valkey URL",
    '"valkey://host:6379/0", "valkeys://…" for TLS (redis:// and rediss:// are the same), or'
    ' "unix:///path?db=0"',
    _read,
)

ValkeyAddress = Annotated[ValkeyURL, VALKEY_URL]

LOCAL: Final = "local"

LIMITS_BACKEND: Form[ValkeyURL | str] = Form(
    f'"{LOCAL}" or {VALKEY_URL.name}',
    f'"{LOCAL}", or {VALKEY_URL.allowed}',
    lambda text: LOCAL if text == LOCAL else _read(text),
)

LimitsBackend = Annotated[ValkeyURL | Literal["local"], LIMITS_BACKEND]
