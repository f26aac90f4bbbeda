"""Where a Valkey or Redis server is: the form of URL that their clients share."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import quote

from pydantic import SecretStr

from sidecar.settings.addresses import SOCKET_PATH_BYTES
from sidecar.settings.forms import Form
from sidecar.settings.url_parts import decoded, read_file, read_host, read_port, read_query

VALKEY_PORT: Final = 6379
MOST_ADDRESSES: Final = 16
"""Of a cluster, in its URL: enough to find the others by."""

_MOST_DATABASES = 65_536
_HOST = r"(?:\[[^\]]*\]|[^,:/?#@\[\]]+)"
_URL = re.compile(
    r"(?P<scheme>valkeys?|rediss?)(?P<cluster>\+cluster)?://(?P<userinfo>[^@/?#]*@)?"
    rf"(?P<addresses>{_HOST}(?::[0-9]{{1,5}})?(?:,{_HOST}(?::[0-9]{{1,5}})?)*)"
    r"(?:/(?P<database>[^/?#]*))?(?:\?(?P<query>[^#]*))?"
)
_ADDRESS = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")
_SOCKET_URL = re.compile(
    r"unix://(?P<userinfo>[^@/?#]*@)?(?P<path>/[^?#]*[^/?#])(?:\?(?P<query>[^#]*))?"
)
_FILES = ("ca_file", "cert_file", "key_file")


@dataclass(frozen=True, slots=True)
class ValkeyURL:
    """A database of a server: `valkey://user:password@host:6379/0`, or `valkeys://…` for TLS.

    `redis` is the same as `valkey`; a server on this machine may be `unix:///path?db=0`. A cluster
    is `valkey+cluster://host:6379,other:6379`, some of its nodes.
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
    is_cluster: bool = False
    others: tuple[tuple[str, int], ...] = ()
    """More nodes of the cluster, as hosts and ports."""

    @property
    def nodes(self) -> tuple[tuple[str, int], ...]:
        """Hosts and ports: those that the URL names."""
        return ((self.host, self.port), *self.others)

    def at(self, host: str, port: int) -> "ValkeyURL":
        """Return the URL of one node of the cluster, a server like any."""
        return replace(self, host=host, port=port, is_cluster=False, others=())

    def __str__(self) -> str:
        """Return the URL without its password and its files, for logs and messages."""
        user = "" if self.user is None else f"{quote(self.user, safe='')}@"
        if self.socket_path is not None:
            database = f"?db={self.database}" if self.database else ""
            return f"unix://{user}{self.socket_path}{database}"
        scheme = f"valkey{'s' * self.tls}"
        addresses = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes
        )
        if self.is_cluster:
            return f"{scheme}+cluster://{user}{addresses}"
        return f"{scheme}://{user}{addresses}/{self.database}"


def _read(text: str) -> ValkeyURL | None:
    if not text.isprintable():
        return None
    if match := _SOCKET_URL.fullmatch(text):
        return _read_socket(match)
    match = _URL.fullmatch(text)
    return match and _read_servers(match)


def _read_single(text: str) -> ValkeyURL | None:
    url = _read(text)
    if url is not None and url.is_cluster:
        raise ValueError("must be a single server: a cluster cannot be read from here")
    return url


def _read_servers(match: re.Match[str]) -> ValkeyURL:
    is_cluster = bool(match["cluster"])
    tls = match["scheme"] in {"valkeys", "rediss"}
    settings = read_query(match["query"], _FILES)
    if settings and not tls:
        secure = f"valkeys{match['cluster'] or ''}"
        raise ValueError(f'must be "{secure}://…" where it names certificates')
    files = {name: read_file(name, path) for name, path in settings.items()}
    if ("cert_file" in files) != ("key_file" in files):
        raise ValueError("must have both cert_file and key_file, or neither")
    user, password = _read_userinfo(match["userinfo"])
    (host, port), *others = _read_addresses(match["addresses"])
    if others and not is_cluster:
        raise ValueError('must be "valkey+cluster://…" where it names several servers')
    database = _database(match["database"])
    if database and is_cluster:
        raise ValueError("must have no database but 0, which is the only one of a cluster")
    return ValkeyURL(
        host=host,
        port=port,
        database=database,
        user=user,
        password=password,
        tls=tls,
        is_cluster=is_cluster,
        others=tuple(others),
        **files,
    )


def _read_addresses(text: str) -> list[tuple[str, int]]:
    addresses = [
        (read_host(match["host"]), read_port(match["port"], VALKEY_PORT))
        for match in _ADDRESS.finditer(text)
    ]
    if len(addresses) > MOST_ADDRESSES:
        raise ValueError(f"must name at most {MOST_ADDRESSES} nodes: the others are found by them")
    if len(set(addresses)) < len(addresses):
        raise ValueError("must name each node once")
    return addresses


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
    _read_single,
)

ValkeyAddress = Annotated[ValkeyURL, VALKEY_URL]

LOCAL: Final = "local"

LIMITS_BACKEND: Form[ValkeyURL | str] = Form(
    f'"{LOCAL}" or {VALKEY_URL.name}',
    f'"{LOCAL}", or {VALKEY_URL.allowed}; of a cluster "valkey+cluster://host:6379,other:6379"',
    lambda text: LOCAL if text == LOCAL else _read(text),
)

LimitsBackend = Annotated[ValkeyURL | Literal["local"], LIMITS_BACKEND]
