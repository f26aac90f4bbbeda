"""Where things are: hosts, networks, origins, and the URLs of upstreams."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, ClassVar, Final

from sidecar.settings.forms import Form, whole_number

Network = IPv4Network | IPv6Network

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")

_AUTHORITY = r"(?P<host>\[[^\]]*\]|[^:/?#@\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
_UPSTREAM = re.compile(rf"(?P<scheme>(?i:https?))://{_AUTHORITY}")
_UNIX = "unix:"
_ORIGIN = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*)://{_AUTHORITY}")

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

IN_MEMORY: Final = ":memory:"

SOCKET_PATH_BYTES: Final = 107
"""What `sun_path` holds beside its final NUL (unix(7))."""


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _read_host(text: str) -> str | None:
    """Return an IP address, or a host name (RFC 1123 section 2.1, and `_` as in container names).

    A name that ends in a number is no name: resolvers take `10.1` for 10.0.0.1.
    """
    if _address(text) is not None:
        return text
    name = text.lower()
    is_name = len(name) <= 253 and _NAME.fullmatch(name)
    return name if is_name and not _NUMERIC.fullmatch(name.rpartition(".")[2]) else None


def _read_authority(match: re.Match[str]) -> tuple[str, int | None] | None:
    """Return host (an IPv6 address without its brackets) and port (1 to 65535), if any."""
    host, port = match["host"], match["port"]
    if host.startswith("["):
        host = host[1:-1]
        known = isinstance(_address(host), IPv6Address) and "%" not in host
    else:
        known = _read_host(host) is not None
    if not known or (port is not None and not 0 < int(port) < 65536):
        return None
    return host.lower(), None if port is None else int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class UpstreamURL:
    """Where an upstream listens: `http://host[:port]` or `https://host[:port]`."""

    host: str
    """A name or an address; IPv6 without brackets."""
    port: int
    scheme: str = "http"

    @property
    def authority(self) -> str:
        """What `Host` says there (RFC 9110 section 7.2): without the port where it is usual."""
        host = _bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Whether the host has to be resolved."""
        return _address(self.host) is None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class UnixURL:
    """Where an upstream listens on this machine: `unix:/path/to.sock`."""

    path: str
    """Absolute; at most 107 bytes, as many as the system takes."""

    authority: ClassVar[str] = "localhost"
    """What `Host` says there: a path is no authority."""

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


def _read_upstream(text: str) -> UpstreamURL | UnixURL | None:
    if text.startswith(_UNIX):
        return _read_unix(text.removeprefix(_UNIX))
    match = _UPSTREAM.fullmatch(text)
    authority = match and _read_authority(match)
    if not match or not authority:
        return None
    scheme = match["scheme"].lower()
    return UpstreamURL(authority[0], authority[1] or DEFAULT_PORTS[scheme], scheme)


def _read_unix(path: str) -> UnixURL | None:
    if not path.startswith("/") or path.startswith("//") or path.endswith("/"):
        return None
    if not path.isprintable():
        return None
    if len(path.encode()) > SOCKET_PATH_BYTES:
        raise ValueError(f"must be a socket whose path has at most {SOCKET_PATH_BYTES} bytes")
    return UnixURL(path)


def _read_network(text: str) -> Network | None:
    try:
        return _without_mapping(ip_network(text))
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError("must be a network: bits are set beyond its prefix") from None
        return None


def _without_mapping(network: Network) -> Network:
    """Return IPv4's own form of a network that is written as IPv6 (RFC 4291 section 2.5.5.2).

    Peers are compared in this form: the other would never match.
    """
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _read_origin(text: str) -> str | None:
    match = _ORIGIN.fullmatch(text)
    authority = match and _read_authority(match)
    if not match or not authority:
        return None
    host, port = authority
    if port == DEFAULT_PORTS.get(match["scheme"]):
        port = None
    serialised = f"{match['scheme']}://{_bracketed(host)}" + (f":{port}" if port else "")
    return text if text == serialised else None


_ORIGIN_ALLOWED = (
    'an origin as browsers send it, such as "https://app.example.com":'
    " lower case, without a path or the scheme's own port"
)

HOST = Form("host", "an IP address or a host name", _read_host)
PORT = whole_number(0, 65535)
NETWORK = Form("network", 'a network such as "10.0.0.0/8", "192.0.2.7", "fd00::/8"', _read_network)
ORIGIN = Form("origin", _ORIGIN_ALLOWED, _read_origin)
READER_ORIGIN = Form(
    "origin or any",
    f'{_ORIGIN_ALLOWED}; or "*" alone',
    lambda text: text if text == "*" else _read_origin(text),
)
UPSTREAM_URL: Form[UpstreamURL | UnixURL] = Form(
    "upstream URL",
    '"http://host:port", "https://host:port" or "unix:/path" and nothing after it',
    _read_upstream,
)
FILE = Form(
    "file",
    'the path of a file, such as "/etc/sidecar/ca.pem"',
    lambda text: Path(text) if text and text.isprintable() and text == text.strip() else None,
)
COUNTS_FILE = Form(
    "file or memory",
    f'the path of a file, such as "/var/lib/sidecar/limits", or "{IN_MEMORY}"',
    FILE.read,
)

Host = Annotated[str, HOST]
Port = Annotated[int, PORT]
TrustedNetwork = Annotated[Network, NETWORK]
Origin = Annotated[str, ORIGIN]
ReaderOrigin = Annotated[str, READER_ORIGIN]
UpstreamAddress = Annotated[UpstreamURL | UnixURL, UPSTREAM_URL]
CountsFile = Annotated[Path, COUNTS_FILE]
"""`IN_MEMORY` for none."""
FilePath = Annotated[Path, FILE]
"""Relative ones count from the working directory."""
