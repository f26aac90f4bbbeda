"""Wiring and lifecycle: from settings to a sidecar that serves, and back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from sidecar.auth.authenticator import Authenticator
from sidecar.auth.cookie_cache import CookieCache
from sidecar.auth.cookies import SessionCookies
from sidecar.auth.renewal import Terms
from sidecar.clock import Clock, SystemClock
from sidecar.control.admin import Admin
from sidecar.identity import PLAIN, Charge, Demand
from sidecar.limits.backend import Backend
from sidecar.limits.cluster import ClusterBackend
from sidecar.limits.commons import path_of
from sidecar.limits.failures import FailureLimiter
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules
from sidecar.limits.shared import SharedLimiter
from sidecar.limits.table_file import TableUnusable
from sidecar.limits.tally import Tally
from sidecar.limits.write_back import WriteBack
from sidecar.observe import app_log, catalogue
from sidecar.observe.access_log import AccessLog, LineLog
from sidecar.observe.metrics import Registry
from sidecar.observe.process import ProcessMeter
from sidecar.observe.writer import BatchWriter
from sidecar.proxy import descriptors
from sidecar.proxy.certificates import Certificate
from sidecar.proxy.checks import Check
from sidecar.proxy.cluster import Cluster
from sidecar.proxy.discovery import SystemResolver
from sidecar.proxy.fields import RequestFields
from sidecar.proxy.forwarded import TrustedProxies
from sidecar.proxy.gateway import Gateway
from sidecar.proxy.origin import Origin
from sidecar.proxy.pacing import Pacer
from sidecar.proxy.plane import Plane, Timeouts
from sidecar.proxy.request import HeadLimits
from sidecar.proxy.splice import Splice
from sidecar.routes import Route, RouteTable
from sidecar.settings import IN_MEMORY, SQLiteURL, UnixURL, ValkeyURL
from sidecar.settings.authorities import client_context, trust
from sidecar.settings.key_pairs import CertificateError, KeyPair
from sidecar.stop_signals import on_stop_signals
from sidecar.store.base import DriverMissing, LayoutError, StoreUnavailable
from sidecar.store.making import make_store
from sidecar.store.probe import Probe
from sidecar.valkey.errors import DriverMissing as ValkeyDriverMissing
from sidecar.valkey.making import make_client

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sidecar import settings as config
    from sidecar.limits.commons import Commons
    from sidecar.observe.metrics import Sample, Snapshot
    from sidecar.proxy.discovery import Resolver
    from sidecar.store.base import Store
    from sidecar.store.making import Database

    MakeOrigin = Callable[[config.UpstreamURL | UnixURL, config.UpstreamTLS], Origin]

_LOG = logging.getLogger(__name__)
_STDOUT = 1
_MEANWHILE = {
    "local": "this host counts by itself until it answers",
    "deny": "requests with API keys get 503 until it answers",
}
"""What becomes of them while `limits.backend` fails, by `limits.on_error`."""
_VAR = Path("var")
_REOPEN_S = 1.0
_GC_THRESHOLD = 20_000
"""Objects made and not let go of before a round of the collector; the default is 700."""


class StartError(Exception):
    """The sidecar cannot start; the message is for the operator, whose mistake it may be."""

    def __init__(self, message: str, *, is_mistake: bool = False) -> None:
        super().__init__(message)
        self.is_mistake = is_mistake


class Sidecar:
    """The whole thing: store, data plane and admin listener.

    `start` then `stop`, each once, on one event loop.
    """

    def __init__(
        self,
        settings: config.Settings,
        *,
        clock: Clock | None = None,
        resolver: Resolver | None = None,
        log_descriptor: int = _STDOUT,
        sockets: Sequence[socket.socket] | None = None,
        commons: Commons | None = None,
        number: int = 0,
    ) -> None:
        """Take over *sockets*, which are bound to where clients connect, if there are any.

        Whoever bound them, for several processes to share, has the admin listener, too. *commons*
        is memory for what limits count that they share, of whom this is *number*, from 0 on.
        """
        self._settings = settings
        self._clock = clock or SystemClock()
        self._store = _store(settings, self._clock)
        self._probe = Probe(self._store.ping)
        self._writer = BatchWriter(log_descriptor) if settings.log.access else None
        self._opener: asyncio.Task[None] | None = None
        failed = settings.limits.failures
        failures = FailureLimiter(failed.requests, failed.window, self._clock)
        self._authenticator = make_authenticator(settings, self._store, failures, self._clock)
        self._shared_limiter = _shared_limiter(settings.limits, self._clock)
        self._plane = make_plane(
            settings,
            self._authenticator,
            failures,
            self._access_log(),
            clock=self._clock,
            resolver=resolver or SystemResolver(),
            limiter=self._shared_limiter,
        )
        self._write_back: WriteBack | None = None
        if settings.limits.write_back:
            self._write_back = WriteBack(
                *(self._plane.limiter, self._store, settings.limits.write_back, self._clock),
                denies=settings.limits.on_error == "deny",
            )
        self._certificate = _certificate(settings, self._clock)
        self._registry = Registry(
            *(self._plane.samples, failures.samples, self._authenticator.samples),
            *(self._store.answers.samples, self._samples),
            *(self._plane.limiter.samples, ProcessMeter(self._clock.time()).samples),
        )
        self._store.answers.tell_of_outages(self._authenticator.stale_served)
        self._configuration = catalogue.CONFIG_INFO(1, _fingerprint(settings))
        self._loaded_at = self._clock.time()
        self._gateway = Gateway(
            self._plane,
            settings.listen.host,
            settings.listen.port,
            certificate=self._certificate,
            proxy_protocol=settings.listen.proxy_protocol,
            sockets=sockets or (),
        )
        self._admin = Admin(
            settings.admin.host,
            settings.admin.port,
            ask_store=self.ping_store,
            is_draining=lambda: self._plane.draining,
            take_snapshots=self._take_snapshots,
        )
        self._is_alone = sockets is None
        self._failures = failures
        self._commons = commons
        self._number = number
        self._drain_s = settings.listen.timeouts.drain

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect, once started."""
        return self._gateway.address

    @property
    def admin_address(self) -> tuple[str, int]:
        """Where the admin listener is, once started."""
        return self._admin.address

    async def start(self) -> None:
        """Open the store and listen.

        A store that does not answer yet is waited for in the background: until it does, requests
        that need it get 503. Raises StartError.
        """
        self._provide_descriptors()
        if self._certificate is not None:
            try:
                self._certificate.load()
            except CertificateError as error:
                await self.stop()
                raise StartError(f"listen.tls.{error}", is_mistake=True) from error
        try:
            await self._store.open()
        except LayoutError as error:
            await self.stop()
            raise StartError(f"store: {error}", is_mistake=True) from error
        except StoreUnavailable:
            # Which the store has said.
            self._opener = asyncio.create_task(self._keep_asking(), name="store-opener")
        self._authenticator.start()
        listen, admin = self._settings.listen, self._settings.admin
        await self._plane.start()
        await self._share()
        # Last: who is alone with the file lets in others once it serves.
        await self._keep_counts()
        if self._shared_limiter is not None:
            await self._shared_limiter.start()
        if self._write_back is not None:
            self._write_back.start()
        try:
            await start_listener(self._gateway, "listen", listen.host, listen.port)
            if self._is_alone:
                await start_listener(self._admin, "admin", admin.host, admin.port)
        except StartError:
            await self.stop()
            raise

    async def ping_store(self) -> None:
        """Return once the store has answered a question. Raises StoreError."""
        await self._probe.ask()

    def snapshot(self) -> Snapshot:
        """Return what was counted so far, and how things stand."""
        if not self._plane.draining:
            # Whether the store answers is not waited for: the next one to ask is told.
            self._probe.ask_later()
        return self._registry.snapshot()

    async def stop(self) -> None:
        """Be not ready, accept no more, answer what is in flight, and let go of everything."""
        # Each is let go of even if the one before failed, or the wait for it was cancelled.
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._close_log)
            stack.callback(self._failures.close)
            stack.callback(self._plane.limiter.close)
            if self._shared_limiter is not None:
                stack.push_async_callback(self._shared_limiter.stop)
            stack.push_async_callback(self._store.close)
            if self._write_back is not None:
                stack.push_async_callback(self._write_back.close)
            stack.push_async_callback(self._authenticator.close)
            stack.push_async_callback(self._probe.close)
            stack.push_async_callback(self._stop_opening)
            stack.push_async_callback(self._admin.stop)
            await self._gateway.stop(self._drain_s)

    def stop_waiting(self) -> None:
        """Cut off what is still in flight: the operator asked a second time."""
        self._drain_s = 0.0  # the first may not have been acted on yet
        self._plane.emptied.set()

    def _provide_descriptors(self) -> None:
        """Have as many descriptors as may be needed, or serve fewer clients than configured."""
        connections = self._settings.listen.max_connections
        to_upstreams = connections_to_upstreams(self._settings)
        needed = descriptors.needed(connections, to_upstreams)
        limit = descriptors.raise_limit(needed)
        allotment = descriptors.allot(limit, connections, to_upstreams)
        self._plane.max_connections = allotment.connections
        self._plane.max_turned_away = allotment.turned_away
        Splice.at_once = allotment.spliced
        if limit < needed:
            _LOG.warning(
                "the system allows %d open files (ulimit -n), and %d may be needed:"
                " serving %d clients at once, of listen.max_connections = %d",
                *(limit, needed, allotment.connections, connections),
            )

    async def _share(self) -> None:
        """Count together with other workers what is kept in no file."""
        commons = self._commons
        if commons is None:
            return
        if commons.in_progress is not None:
            self._plane.limiter.count_in_progress_in(Tally(commons.in_progress), self._number)
        try:
            await self._failures.share(path_of(commons.failures))
        except TableUnusable as error:
            _LOG.error("limits.failures: each worker counts by itself: %s", error)

    async def _keep_counts(self) -> None:
        """Have the counts of limits outlive the process, if they can."""
        path = limits_file(self._settings)
        if path is None:
            if self._settings.limits.file is None:
                _LOG.warning(
                    "limits.file: not set, and no directory is known that is for it: counts are"
                    " kept in memory, and a restart forgets them"
                )
        else:
            try:
                await self._plane.limiter.keep_in(path, is_alone=self._is_alone)
            except TableUnusable as error:
                _LOG.warning(
                    "limits.file: %s cannot be used: %s; counts are kept in memory, and a restart"
                    " forgets them",
                    *(path, error),
                )
            else:
                return
        if self._commons is not None:
            try:
                await self._plane.limiter.keep_in(path_of(self._commons.counts), is_alone=False)
            except TableUnusable as error:
                _LOG.error("limits: each worker counts by itself: %s", error)

    def _close_log(self) -> None:
        if self._writer is not None:
            self._writer.close()
            if self._writer.dropped:
                _LOG.warning("%d lines of the access log were lost", self._writer.dropped)

    async def _stop_opening(self) -> None:
        if self._opener is not None:
            self._opener.cancel()
            await asyncio.gather(self._opener, return_exceptions=True)

    async def _keep_asking(self) -> None:
        """Wait for the store, which tells in the log what is wrong with it.

        It is not opened again: a file that turns up empty may be one that is being copied, and
        gets no tables.
        """
        while True:
            await asyncio.sleep(_REOPEN_S)
            with contextlib.suppress(StoreUnavailable):
                await self._probe.ask()
                return

    async def _take_snapshots(self) -> Sequence[Snapshot]:
        return [self.snapshot()]

    def _samples(self) -> Iterator[Sample]:
        if self._writer is not None:
            yield from self._writer.samples()
        if self._certificate is not None and self._certificate.ends_at is not None:
            yield catalogue.CERTIFICATE_EXPIRY(self._certificate.ends_at)
        if self._is_alone:
            yield catalogue.WORKERS(1)
            yield catalogue.WORKER_RESTARTS(0)
            yield catalogue.LIMIT_AT_ONCE_RECOVERED(0)
        yield self._configuration
        yield catalogue.CONFIG_GENERATION(1)
        yield catalogue.CONFIG_LOADED(self._loaded_at)

    def _access_log(self) -> AccessLog | None:
        if self._writer is None:
            return None
        return LineLog(self._writer.write, as_text=self._settings.log.format == "text")


def serve(settings: config.Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises StartError."""
    app_log.configure(settings.log.level, as_text=settings.log.format == "text")
    uvloop.run(_serve(settings))


async def _serve(settings: config.Settings) -> None:
    sidecar = Sidecar(settings)
    stopped = on_stop_signals(sidecar.stop_waiting)
    await sidecar.start()
    settle_memory()
    _LOG.info("health on %s port %d", *sidecar.admin_address)
    _LOG.info("serving on %s port %d", *sidecar.address)
    await stopped.wait()
    _LOG.info("draining")
    await sidecar.stop()


def connections_to_upstreams(settings: config.Settings) -> int:
    """Return how many there are at most: a client waits for one answer at a time."""
    clients = settings.listen.max_connections
    return sum(min(upstream.max_connections, clients) for upstream in settings.upstreams.values())


def settle_memory() -> None:
    """Spare the garbage collector what stays for good, and most of its rounds.

    A request leaves no cycles behind, so that there is little to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)


async def start_listener(listener: Gateway | Admin, name: str, host: str, port: int) -> None:
    """Start what the section *name* tells to listen there. Raises StartError."""
    try:
        await listener.start()
    except OSError as error:
        raise cannot_listen(name, host, port, error) from error


def cannot_listen(name: str, host: str, port: int, error: OSError) -> StartError:
    """Return what the operator is told where an address cannot be had."""
    return StartError(
        f"{name}.host, {name}.port: cannot listen on {host} port {port}: {error.strerror}"
    )


def _store(settings: config.Settings, clock: Clock) -> Database:
    try:
        return make_store(settings.store, clock)
    except DriverMissing as error:
        raise StartError(f"store: {error}", is_mistake=True) from error


def make_cookie_cache(session: config.Session) -> CookieCache | None:
    """Return what reads the cookie cache, None where the database alone decides."""
    if session.cookie_cache == "off":
        return None
    return CookieCache(session.cookie_cache, _secrets(session), session.cookie_cache_version)


def _secrets(session: config.Session) -> list[bytes]:
    return [secret.get_secret_value().encode() for secret in session.secrets]


def _terms(session: config.Session) -> Terms:
    return Terms(
        session.expires_in,
        session.update_age,
        session.cookie_domain,
        session.cookie_same_site,
        session.cookie_secure,
    )


def make_authenticator(
    settings: config.Settings,
    store: Store,
    failures: FailureLimiter,
    clock: Clock,
    *,
    may_write: bool = True,
) -> Authenticator:
    """Return who decides on credentials, by what *store* says.

    Without *may_write* nothing is renewed, whatever the settings say.
    """
    session, cache = settings.session, settings.store.cache
    return Authenticator(
        store,
        secrets=_secrets(session),
        cookie_prefix=session.cookie_prefix,
        cookie_name=session.cookie_name,
        organization_field=settings.api_key.organization_field,
        entries=cache.entries,
        fresh_s=cache.fresh,
        negative_s=cache.negative,
        stale_s=cache.stale,
        timeout_s=settings.store.timeout,
        clock=clock,
        neighbours=failures,
        cookie_cache=make_cookie_cache(session),
        renewal=_terms(session) if session.renew and may_write else None,
    )


def make_plane(
    settings: config.Settings,
    authenticator: Authenticator,
    failures: FailureLimiter,
    log: AccessLog | None,
    *,
    clock: Clock,
    resolver: Resolver,
    origin: MakeOrigin | None = None,
    limiter: LocalLimiter | None = None,
) -> Plane:
    """Return what requests pass through; *origin* makes how each URL is connected to.

    Without a *limiter*, requests are counted here.

    Raises StartError.
    """
    listen, limits = settings.listen, settings.limits
    internal_lines = make_internal_lines(settings)
    cookies = SessionCookies(settings.session.cookie_prefix, settings.session.cookie_name)
    return Plane(
        routes=RouteTable(_route(route, listen.limits.body) for route in settings.routes),
        authenticator=authenticator,
        limiter=limiter or LocalLimiter(_rules(limits), clock, limits.entries),
        failures=failures,
        pacer=Pacer(limits.failures.pause, clock),
        clusters={
            name: _cluster(
                *(name, upstream, internal_lines, clock),
                resolver=resolver,
                origin=origin or make_origin,
            )
            for name, upstream in settings.upstreams.items()
        },
        fields=RequestFields(settings.api_key.header, cookies.strip),
        head_limits=HeadLimits(
            listen.limits.target, listen.limits.headers, listen.limits.header_count
        ),
        timeouts=Timeouts(listen.timeouts.headers, listen.timeouts.body, listen.timeouts.idle),
        max_connections=listen.max_connections,
        max_requests=listen.max_requests,
        trusted=TrustedProxies(listen.trusted_proxies),
        trusted_origins=frozenset(origin.encode() for origin in settings.session.trusted_origins),
        internal_lines=internal_lines,
        log=log,
        clock=clock,
    )


def make_internal_lines(settings: config.Settings) -> bytes:
    """Return the field lines that go with everything that is forwarded."""
    token = settings.identity.internal_token
    if token is None:
        return b""
    return b"x-internal-token: %b\r\n" % token.get_secret_value().encode()


def make_check(health: config.Health, internal_lines: bytes) -> Check | None:
    """Return what servers are asked, if they are."""
    if health.path is None:
        return None
    return Check(health.path.encode(), internal_lines, health.interval, health.timeout)


def _fingerprint(settings: config.Settings) -> str:
    """Return what tells two configurations apart, but for their secrets, which are masked."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def _rules(limits: config.Limits) -> Rules:
    organization = limits.organization
    return Rules(
        Limit(limits.requests, limits.window),
        limits.source,
        limits.algorithm,
        None if organization is None else Limit(organization.requests, organization.window),
        limits.at_once.key,
        limits.at_once.organization,
    )


def _shared_limiter(limits: config.Limits, clock: Clock) -> SharedLimiter | None:
    """Return who counts requests where other hosts do, if that is wanted. Raises StartError."""
    backend = make_backend(limits, clock)
    if backend is None:
        return None
    return SharedLimiter(_rules(limits), clock, limits.entries, backend, limits.on_error)


def make_backend(limits: config.Limits, clock: Clock) -> Backend | ClusterBackend | None:
    """Return the server or cluster that hosts count in, if there is one. Raises StartError."""
    url = limits.backend
    if not isinstance(url, ValkeyURL):
        return None
    connect = partial(make_client, timeout_s=limits.timeout)
    try:
        client = connect(url)
    except ValkeyDriverMissing as error:
        raise StartError(f"limits.backend: {error}", is_mistake=True) from error
    algorithm, timeout_s = limits.algorithm, limits.timeout
    meanwhile = _MEANWHILE[limits.on_error]
    if not url.is_cluster:
        return Backend(client, algorithm, clock, timeout_s=timeout_s, meanwhile=meanwhile)
    return ClusterBackend(url, connect, algorithm, clock, timeout_s=timeout_s, meanwhile=meanwhile)


def limits_file(settings: config.Settings, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return where the counts of limits are kept; None for nowhere."""
    file = settings.limits.file
    if file is not None:
        return None if str(file) == IN_MEMORY else file
    # Of several, systemd separates them by a colon.
    if state := environ.get("STATE_DIRECTORY"):
        return Path(state.partition(":")[0], "sidecar.limits")
    url = settings.store.url
    if isinstance(url, SQLiteURL):
        return url.path.with_name(f"{url.path.name}.limits")
    return _VAR / "sidecar.limits" if _VAR.is_dir() else None


def _certificate(settings: config.Settings, clock: Clock) -> Certificate | None:
    tls = settings.listen.tls
    return None if tls is None else Certificate(key_pair(tls), clock)


def key_pair(tls: config.ListenTLS) -> KeyPair:
    """Return the pair that *tls* names, not read yet."""
    password = tls.key_password
    return KeyPair(
        tls.cert_file,
        tls.key_file,
        None if password is None else password.get_secret_value(),
    )


def _route(route: config.Route, body_bytes: int) -> Route:
    methods = frozenset(method.encode() for method in route.methods or ())
    if b"GET" in methods:
        # What may be read may be asked about: RFC 9110 section 9.3.2.
        methods |= {b"HEAD"}
    return Route(
        path=route.path,
        upstream=route.upstream,
        demand=Demand(
            admits=frozenset(route.auth),
            organization_required=route.organization == "required",
            roles=frozenset(route.roles),
            permissions={name: frozenset(actions) for name, actions in route.permissions.items()},
        ),
        forwards_preflight=route.preflight == "forward",
        origins=frozenset(origin.encode() for origin in route.origins),
        methods=methods,
        body_bytes=body_bytes if route.body is None else route.body,
        charge=_charge(route),
    )


def _charge(route: config.Route) -> Charge:
    limit = route.limit
    if limit is None:
        return PLAIN if route.cost == 1 else Charge(route.cost)
    return Charge(
        route.cost,
        # No path is a name.
        limit.budget or route.path,
        limit.budget or "route",
        limit.requests,
        limit.window,
    )


def _cluster(
    name: str,
    upstream: config.Upstream,
    internal_lines: bytes,
    clock: Clock,
    *,
    resolver: Resolver,
    origin: MakeOrigin,
) -> Cluster:
    health = upstream.health
    try:
        origins = [origin(url, upstream.tls) for url in upstream.urls]
    except CertificateError as error:
        # Checked with the configuration; it has changed since.
        raise StartError(f"upstreams.{name}.tls.{error}", is_mistake=True) from error
    return Cluster(
        name,
        origins,
        connect_timeout_s=upstream.connect,
        response_timeout_s=upstream.response,
        idle_timeout_s=upstream.idle,
        max_connections=upstream.max_connections,
        max_pending=upstream.max_pending,
        queue_timeout_s=upstream.queue_timeout,
        keeps_host=upstream.host == "client",
        check=make_check(health, internal_lines),
        resolver=resolver,
        clock=clock,
    )


def make_origin(url: config.UpstreamURL | UnixURL, tls: config.UpstreamTLS) -> Origin:
    """Return how the servers at *url* are connected to. Raises CertificateError."""
    authority = url.authority.encode()
    if isinstance(url, UnixURL):
        return Origin(str(url), authority, url.path)
    if url.scheme != "https":
        return Origin(str(url), authority, url.host, url.port, url.is_name)
    context = client_context()
    trust(context, tls.ca_file)
    if tls.cert_file is not None and tls.key_file is not None:
        password = None if tls.key_password is None else tls.key_password.get_secret_value()
        KeyPair(tls.cert_file, tls.key_file, password).load_into(context)
    server_name = tls.server_name or url.host
    return Origin(str(url), authority, url.host, url.port, url.is_name, context, server_name)
