"""Where the store is: a SQLite file or a PostgreSQL database, in SQLAlchemy's form of URL."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, get_args
from urllib.parse import quote

from pydantic import SecretStr

from sidecar.settings.forms import Form
from sidecar.settings.url_parts import decoded, read_file, read_host, read_port, read_query

POSTGRES_PORT: Final = 5432

SSLMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
"""What libpq calls so: never TLS; only if the server insists; if it can; always, unverified;
with a certificate of an authority that is trusted; and of the very host."""

_SQLITE = "sqlite:///"
_POSTGRES = re.compile(
    r"postgres(?:ql)?://(?P<user>[^:@/?#]+)(?::(?P<password>[^@/?#]*))?@"
    r"(?P<host>\[[^\]]*\]|[^:/?#@\[\]]*)(?::(?P<port>[0-9]{1,5}))?"
    r"/(?P<database>[^/?#]+)(?:\?(?P<query>[^#]*))?"
)
_SEARCH_PATH = re.compile(r"\s*(?:-c\s*|--)search_path=(\S+)\s*")


@dataclass(frozen=True, slots=True)
class SQLiteURL:
    """A SQLite file: `sqlite:///relative.db` or `sqlite:////absolute.db`."""

    path: Path
    """Relative ones count from the working directory."""

    def __str__(self) -> str:
        return f"{_SQLITE}{self.path}"


@dataclass(frozen=True, slots=True)
class PostgresURL:
    """A PostgreSQL database: `postgresql://user:password@host:5432/database?sslmode=…`."""

    user: str
    host: str
    """A name or an address (IPv6 without brackets), or the absolute directory of a Unix socket."""
    database: str
    port: int = POSTGRES_PORT
    password: SecretStr | None = None
    """None leaves it to `$PGPASSWORD` and the password file, as libpq does."""
    sslmode: SSLMode = "prefer"
    sslrootcert: Path | None = None
    """Authorities that are trusted; None: the system's."""
    sslcert: Path | None = None
    """The client's own certificate, with `sslkey`."""
    sslkey: Path | None = None
    search_path: tuple[str, ...] = ()
    """Schemas to look for tables in, in this order; empty: the role's own."""

    def __str__(self) -> str:
        """Return the URL without its password and its query, for logs and messages."""
        where = f"[{self.host}]" if ":" in self.host else self.host
        database = quote(self.database, safe="")
        user = quote(self.user, safe="")
        return f"postgresql://{user}@{quote(where, safe='/:[]')}:{self.port}/{database}"


StoreURL = SQLiteURL | PostgresURL


def _read(text: str) -> StoreURL | None:
    if not text.isprintable():
        return None
    if text.startswith(_SQLITE):
        return _read_sqlite(text)
    match = _POSTGRES.fullmatch(text)
    return match and _read_postgres(match)


def _read_sqlite(text: str) -> SQLiteURL | None:
    path = text.removeprefix(_SQLITE)
    if not path or path.endswith("/"):
        return None
    if path == ":memory:":
        raise ValueError('must be a database in a file: ":memory:" is empty at every start')
    if "?" in path or "#" in path:
        raise ValueError(f'must be "{_SQLITE}" and a path, without a query')
    return SQLiteURL(Path(path))


def _read_postgres(match: re.Match[str]) -> PostgresURL:
    settings = read_query(match["query"], _SETTINGS)
    port = read_port(match["port"], POSTGRES_PORT)
    certificates = {name: _file(settings, name) for name in ("sslrootcert", "sslcert", "sslkey")}
    if (certificates["sslcert"] is None) != (certificates["sslkey"] is None):
        raise ValueError("must have both sslcert and sslkey, or neither")
    sslmode = _sslmode(settings.get("sslmode", "prefer"))
    if sslmode in {"disable", "allow", "prefer"} and any(certificates.values()):
        raise ValueError("must have sslmode=require or stricter where it names certificates")
    if sslmode == "verify-ca" and certificates["sslrootcert"] is None:
        # Any site's certificate would do, with all of the system's authorities.
        raise ValueError("must have sslrootcert with sslmode=verify-ca")
    return PostgresURL(
        user=decoded(match["user"]),
        host=_host(match["host"], settings.get("host")),
        database=decoded(match["database"]),
        port=port,
        password=None if match["password"] is None else SecretStr(decoded(match["password"])),
        sslmode=sslmode,
        search_path=_search_path(settings.get("options", "")),
        **certificates,
    )


def _host(authority: str, host: str | None) -> str:
    if host is None:
        return read_host(authority)
    if authority or not host.startswith("/"):
        raise ValueError(
            'must have its host before the "/", or `?host=` with a socket\'s directory'
        )
    return host


def _sslmode(text: str) -> SSLMode:
    modes: tuple[SSLMode, ...] = get_args(SSLMode)
    for mode in modes:
        if text == mode:
            return mode
    raise ValueError(f"must have an sslmode of {', '.join(modes)}")


def _file(settings: dict[str, str], name: str) -> Path | None:
    path = settings.get(name)
    if path is None or (name, path) == ("sslrootcert", "system"):
        return None
    return read_file(name, path)


def _search_path(options: str) -> tuple[str, ...]:
    if not options:
        return ()
    match = _SEARCH_PATH.fullmatch(options)
    names = tuple(name.strip().strip('"') for name in match[1].split(",")) if match else ()
    if not names or not all(names):
        raise ValueError("must have options of the form -csearch_path%3Dschema and no others")
    return names


_SETTINGS = ("host", "sslmode", "sslrootcert", "sslcert", "sslkey", "options")

STORE_URL: Form[StoreURL] = Form(
    "store URL",
    '"sqlite:///relative.db", "sqlite:////absolute.db" or "postgresql://user@host:5432/database"',
    _read,
)

StoreAddress = Annotated[StoreURL, STORE_URL]
