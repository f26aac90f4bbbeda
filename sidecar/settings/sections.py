"""The settings: one frozen model a section, with every setting's type, default and meaning.

Defaults stand as the file would have them. What two settings must agree about is in
`consistency.py`, so that it is reported beside the mistakes that a single value makes.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from sidecar.identity import CredentialKind
from sidecar.settings.addresses import (
    CountsFile,
    FilePath,
    Host,
    Origin,
    Port,
    ReaderOrigin,
    TrustedNetwork,
    UpstreamAddress,
)
from sidecar.settings.forms import NOT_OF_FORM, SWITCH, TEXT, whole_number, whole_number_or
from sidecar.settings.names import (
    BudgetName,
    CookieDomain,
    CookieName,
    InternalToken,
    KeyHeader,
    Method,
    Password,
    Role,
    RoutePath,
    Secret,
    StoreName,
    Target,
    UpstreamName,
)
from sidecar.settings.quantities import Duration, DurationOrZero, HeadSize, Size
from sidecar.settings.store_urls import StoreAddress
from sidecar.settings.valkey_urls import LimitsBackend, ValkeyAddress

Connections = Annotated[int, whole_number(1, 1_000_000)]
Requests = Annotated[int, whole_number(1, 1_000_000_000)]
Workers = Annotated[int | Literal["auto"], whole_number_or("auto", 1, 1024)]
Text = Annotated[str, TEXT]
Algorithm = Literal["fixed-window", "sliding-window", "token-bucket"]


def setting(default: object, description: str) -> Any:
    """Declare a setting that may be left out; its default is written as in the file."""
    return Field(default, description=description)


class Section(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )


class ListenTimeouts(Section):
    """How long clients may take."""

    headers: Duration = setting("10s", "from the first byte of a request's head to its last")
    body: Duration = setting("30s", "between two pieces of a request's body")
    idle: Duration = setting("75s", "between two requests of one connection")
    drain: DurationOrZero = setting("30s", "on SIGTERM, for what is in flight")


class ListenLimits(Section):
    """How much clients may send."""

    target: HeadSize = setting("8KiB", "the request's target; beyond: 414")
    headers: HeadSize = setting("32KiB", "the request's head; beyond: 431")
    header_count: Annotated[int, whole_number(1, 10_000)] = setting(
        100, "the head's lines; beyond: 431"
    )
    body: Size = setting("10MiB", "the request's body; beyond: 413")


class ListenTLS(Section):
    """TLS for clients, version 1.2 or later. Without this table they are spoken to in plain HTTP.

    Both files are PEM, and read again when they change.
    """

    cert_file: FilePath = Field(
        description="the certificate, followed by those between it and its authority's root"
    )
    key_file: FilePath = Field(description="the certificate's private key")
    key_password: Password | None = setting(None, "the key's password, if it has one")


class Listen(Section):
    """Where clients connect."""

    host: Host = setting("0.0.0.0", "the address to listen on")  # noqa: S104  # its purpose
    port: Port = setting(8080, "the port to listen on; `0`: any free one")
    workers: Workers = setting(
        1, 'processes that share the port; `"auto"`: one a core that this process may use'
    )
    max_connections: Connections = setting(
        20_000, "a worker's connections at once; beyond: 503, closed"
    )
    max_requests: Connections = setting(
        20_000, "a worker's requests in progress at once; beyond: 503, and the connection stays"
    )
    trusted_proxies: tuple[TrustedNetwork, ...] = setting(
        (), "networks whose `Forwarded` and `X-Forwarded-*` are believed"
    )
    proxy_protocol: Annotated[bool, SWITCH] = setting(
        False,
        "whether every connection begins with a PROXY protocol header, version 1 or 2, and comes"
        " from one of `trusted_proxies`; any other is closed",
    )
    tls: ListenTLS | None = setting(None, "see [listen.tls]")
    timeouts: ListenTimeouts = Field(default_factory=ListenTimeouts)
    limits: ListenLimits = Field(default_factory=ListenLimits)


class Admin(Section):
    """Where the operator's tools ask for health. Not for clients."""

    host: Host = setting("127.0.0.1", "the address to listen on")
    port: Port = setting(9090, "the port to listen on; `0`: any free one")


class StoreCache(Section):
    """What is remembered of the store."""

    entries: Annotated[int, whole_number(1, 10_000_000)] = setting(
        100_000, "credentials remembered at once; the least used go first"
    )
    fresh: Duration = setting("1s", "how soon a change in the store is noticed")
    negative: DurationOrZero = setting("10s", "how long an unknown credential stays unknown")
    stale: DurationOrZero = setting(
        "5m", "how long verified credentials live while the store is down"
    )


class Store(Section):
    """Better Auth's database."""

    url: StoreAddress = setting(
        "sqlite:///var/sidecar.db",
        "which database; SQLite: three slashes are relative to the working directory, four"
        " absolute; a PostgreSQL URL with a password belongs into `env:` or `file:`",
    )
    timeout: Duration = setting("2s", "until a query, or a connect, is given up")
    names: Mapping[StoreName, Text] = setting(
        {}, "what the database calls tables and columns whose names cannot be guessed"
    )
    secondary: ValkeyAddress | None = setting(
        None,
        "Better Auth's `secondaryStorage`, where it keeps sessions or API keys in Valkey or Redis;"
        " a URL with a password belongs into `env:` or `file:`",
    )
    secondary_prefix: Text | None = setting(
        None,
        "what every name there begins with; without it: nothing, or `better-auth:` as Better Auth's"
        " own Redis storage has it",
    )
    secondary_holds: Annotated[tuple[CredentialKind, ...], Field(min_length=1)] | None = setting(
        None,
        "what is kept there alone, and read there alone; what is not named is read in the database"
        " alone; without it: see docs/better-auth.md",
    )
    cache: StoreCache = Field(default_factory=StoreCache)


class APIKey(Section):
    """API keys."""

    header: KeyHeader = setting("x-api-key", "the header that carries the key")
    organization_field: Text = setting(
        "organizationId", "where a key's metadata names its organization"
    )


class Session(Section):
    """Session cookies."""

    secrets: tuple[Secret, ...] = setting(
        (),
        "Better Auth's secret, and while it is rotated the one before;"
        " needed where a route admits sessions",
    )
    cookie_prefix: CookieName = setting("better-auth", "Better Auth's `advanced.cookiePrefix`")
    cookie_name: CookieName | None = setting(
        None,
        "the session cookie's whole name, where `advanced.cookies` gives it another",
    )
    trusted_origins: tuple[Origin, ...] = setting(
        (), "other sites whose pages may make changes with the cookie"
    )
    renew: Annotated[bool, SWITCH] = setting(
        False,
        "whether a session in use is moved when it gets old, as Better Auth's `getSession` does:"
        " its row, and the cookie on the response",
    )
    expires_in: Duration = setting("7d", "renewal: Better Auth's `session.expiresIn`")
    update_age: Duration = setting(
        "1d", "renewal: Better Auth's `session.updateAge`; sessions older than this are moved"
    )
    cookie_domain: CookieDomain | None = setting(
        None, "renewal: `Domain` of the cookie, where `crossSubDomainCookies` gives it one"
    )
    cookie_same_site: Literal["lax", "strict", "none"] = setting(
        "lax", "renewal: `SameSite` of the cookie"
    )
    cookie_secure: Annotated[bool, SWITCH] = setting(
        False, "renewal: whether the cookie is `Secure` even where its name does not say so"
    )
    cookie_cache: Literal["off", "compact", "jwt", "jwe"] = setting(
        "off",
        "Better Auth's `session.cookieCache.strategy`, if its cookie may stand in for the session's"
        ' row until it ends, even where the session was signed out; `"off"`: the database decides',
    )
    cookie_cache_version: Text = setting(
        "1", "Better Auth's `session.cookieCache.version`; a cookie of another one is ignored"
    )


class IdentityHeaders(Section):
    """What upstreams are told beside the caller's identity."""

    internal_token: InternalToken | None = setting(
        None, "sent as `x-internal-token`: proof that a request came through the sidecar"
    )


class OrganizationLimit(Section):
    """The rate limit of an organization over all its API keys. Without this table: none."""

    requests: Requests = Field(description="requests in a window, of all keys together")
    window: Duration = Field(description="the window")


class AtOnceLimits(Section):
    """How many requests with an API key may be in progress over all workers; beyond: 429.

    Event streams and WebSockets are in progress for as long as they last.
    """

    key: Requests | None = setting(None, "of one key; without it: any number")
    organization: Requests | None = setting(
        None, "of all keys of an organization together; without it: any number"
    )


class FailureLimits(Section):
    """How many bad credentials one address may send: an IPv4 address, or an IPv6 /64."""

    requests: Requests = setting(
        60, "bad credentials in a window; beyond: 429 to whatever is not known to be good"
    )
    window: Duration = setting("1m", "the window; it opens with its first bad credential")
    pause: DurationOrZero = setting(
        "1s",
        "how long nothing more is read from a connection on which that 429 was given, unless it is"
        " a trusted proxy's",
    )


class Limits(Section):
    """The rate limit of an API key."""

    source: Literal["row", "config", "min"] = setting(
        "row",
        'which limit holds: the key\'s row (where it has none, this section); `"config"`: this'
        ' section; `"min"`: the tighter',
    )
    requests: Requests = setting(1000, "requests in a window")
    window: Duration = setting("1h", "the window")
    algorithm: Algorithm = setting(
        "fixed-window",
        "how every limit counts: the window opens with its first request;"
        ' `"sliding-window"`: never more in any stretch of its length;'
        ' `"token-bucket"`: so many at once, and as many more over each window, evenly',
    )
    backend: LimitsBackend = setting(
        "local",
        "where requests are counted: on this host, or, with the URL of a Valkey or Redis server or"
        " cluster, by all hosts together; a URL with a password belongs into `env:` or `file:`",
    )
    on_error: Literal["local", "deny"] = setting(
        "local",
        'while that server does not answer: each host counts on by itself; `"deny"`: 503. So too'
        " with the store, for calls that remain",
    )
    timeout: Duration = setting("250ms", "until a call to that server is given up")
    file: CountsFile | None = setting(
        None,
        'where counts outlive the process; `":memory:"`: nowhere; without it: `sidecar.limits` in'
        " `$STATE_DIRECTORY`, else the SQLite database's name with `.limits` behind it, else"
        " `var/sidecar.limits` if there is such a directory",
    )
    entries: Annotated[int, whole_number(1, 10_000_000)] = setting(
        100_000, "limits that are counted at once, with 62 bytes for each; the least used go first"
    )
    write_back: DurationOrZero = setting(
        "10s",
        "how often what was used is written to the keys' rows, where the store's role may; `0s`:"
        " never",
    )
    organization: OrganizationLimit | None = setting(None, "see [limits.organization]")
    at_once: AtOnceLimits = Field(default_factory=AtOnceLimits)
    failures: FailureLimits = Field(default_factory=FailureLimits)


class Log(Section):
    """The log."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "the least severe messages that are logged"
    )
    format: Literal["json", "text"] = setting(
        "json", 'one JSON object a line; `"text"`: for a terminal'
    )
    access: Annotated[bool, SWITCH] = setting(True, "whether each request is logged")


class UpstreamTLS(Section):
    """How the upstream's `https` servers are verified, and what the sidecar shows them.

    Certificate and host name are always verified, with TLS 1.2 or later.
    """

    ca_file: FilePath | None = setting(
        None, "certificates of the authorities that are trusted, in place of the system's; PEM"
    )
    cert_file: FilePath | None = setting(
        None, "the sidecar's own certificate with its chain, for servers that ask for one; PEM"
    )
    key_file: FilePath | None = setting(None, "its private key; PEM")
    key_password: Password | None = setting(None, "the key's password, if it has one")
    server_name: Host | None = setting(
        None, "what the certificate must be for, where that is not the URL's host; also sent as SNI"
    )


class Health(Section):
    """Active checks of the upstream's servers, each with a `GET` on a connection of its own.

    Three failures in a row set a server aside, two successes bring it back.
    """

    path: Target | None = setting(
        None, "what is asked for; a 2xx or 3xx is a success; without it: no checks"
    )
    interval: Duration = setting("5s", "from one check of a server to its next")
    timeout: Duration = setting("2s", "until a check has failed")


class Upstream(Section):
    """A service behind the sidecar. `NAME` is what routes call it.

    Every URL, and every address that its host's name has, is a server of the upstream. The one with
    the fewest requests in flight gets the next.
    """

    urls: tuple[UpstreamAddress, ...] = Field(
        min_length=1, max_length=64, description="where it listens: one or more"
    )
    host: Literal["client", "upstream"] = setting(
        "client",
        "whose name `Host` tells: the client's own word; `\"upstream\"`: the URL's (of `unix:`,"
        " `localhost`)",
    )
    connect: Duration = setting(
        "5s", "until a connect to one server is given up, TLS handshake included"
    )
    response: Duration = setting("60s", "until the first byte of the response's head")
    idle: Duration = setting("5m", "between two pieces of a response")
    max_connections: Connections = setting(
        512, "connections at once, to all servers together; beyond: requests wait"
    )
    max_pending: Annotated[int, whole_number(0, 1_000_000)] = setting(
        1024, "requests that wait for a connection, in the order they came; beyond: 503"
    )
    queue_timeout: Duration = setting("5s", "until a request that waits gets 503")
    tls: UpstreamTLS = Field(default_factory=UpstreamTLS)
    health: Health = Field(default_factory=Health)


class RouteLimit(Section):
    """A rate limit of the route's own for each API key, beside the key's. Without it: none."""

    requests: Requests = Field(description="requests in a window")
    window: Duration = Field(description="the window")
    budget: BudgetName | None = setting(
        None, "what the limit is called; routes that call it alike share it"
    )


class Route(Section):
    """What is served under a path, by which upstream, to whom.

    The longest path that matches decides.
    """

    path: RoutePath = Field(description="serves this path and all below it")
    upstream: Text = Field(description="the name of the upstream that serves it")
    auth: tuple[CredentialKind, ...] = setting(
        ("api_key", "session"), "credentials that are admitted; `[]`: public"
    )
    organization: Literal["required", "optional"] = setting(
        "required", "whether a caller without an organization is refused"
    )
    preflight: Literal["forward", "deny"] = setting(
        "forward",
        'what becomes of CORS preflights: forwarded without a credential; `"deny"`: treated like'
        " any request",
    )
    origins: tuple[ReaderOrigin, ...] = setting((), "origins whose pages may read refusals")
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] | None = setting(
        None, "methods that are served (`GET` includes `HEAD`), others: 404; without it: all"
    )
    roles: tuple[Role, ...] = setting((), "sessions: the member needs any of these roles")
    permissions: Mapping[Text, Annotated[tuple[Text, ...], Field(min_length=1)]] = setting(
        {}, "API keys: the key needs all of these; resource to list of actions"
    )
    body: Size | None = setting(None, "the request's body, in place of `listen.limits.body`")
    cost: Annotated[int, whole_number(1, 1_000_000)] = setting(
        1, "API keys: as how many requests one counts"
    )
    limit: RouteLimit | None = setting(None, "see [routes.limit]")

    @field_validator("origins")
    @classmethod
    def _any_stands_alone(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in origins and len(origins) > 1:
            raise PydanticCustomError(
                NOT_OF_FORM, "{rule}", {"rule": 'must be origins, or "*" alone'}
            )
        return origins


class Settings(Section):
    """The configuration file.

    Made by `load` or `parse`: only these see what settings must agree about.
    """

    listen: Listen = Field(default_factory=Listen)
    admin: Admin = Field(default_factory=Admin)
    store: Store = Field(default_factory=Store)
    api_key: APIKey = Field(default_factory=APIKey)
    session: Session = Field(default_factory=Session)
    identity: IdentityHeaders = Field(default_factory=IdentityHeaders)
    limits: Limits = Field(default_factory=Limits)
    log: Log = Field(default_factory=Log)
    upstreams: Mapping[UpstreamName, Upstream] = Field(
        min_length=1, description="a table for each service: [upstreams.NAME]"
    )
    routes: tuple[Route, ...] = Field(min_length=1, description="a [[routes]] table for each path")
