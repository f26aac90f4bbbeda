"""Whether the servers of upstreams are there, and are who they say they are."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sidecar.app import make_check, make_internal_lines, make_origin
from sidecar.doctor.findings import Finding, ok, problem, warning
from sidecar.doctor.words import listed
from sidecar.proxy.checks import ask
from sidecar.proxy.origin import ConnectFailed
from sidecar.proxy.server import Server
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.settings.key_pairs import CertificateError
from sidecar.settings.validity import Validity, complaint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.doctor.patient import Patient
    from sidecar.proxy.checks import Check
    from sidecar.proxy.discovery import Resolver
    from sidecar.proxy.origin import Origin
    from sidecar.settings import Upstream

_LOOKUP_S: Final = 5.0
_CONNECT_S: Final = 5.0
"""At most; less where the upstream's `connect` is."""
_SERVERS: Final = 16
"""Addresses of one name that are looked at."""


async def look(patient: Patient) -> list[Finding]:
    """Connect to every server, each by itself and all at once; send a check where there is one."""
    lines = make_internal_lines(patient.settings)
    found = await asyncio.gather(
        *(
            _upstream(patient, name, upstream, lines)
            for name, upstream in patient.settings.upstreams.items()
        )
    )
    return [finding for findings in found for finding in findings]


class _Visit:
    """A look for the servers at one URL."""

    def __init__(self, origin: Origin, check: Check | None, timeout_s: float) -> None:
        self.url = origin.url
        self.answered: list[str] = []
        """Addresses of servers that are as they should be."""
        self.faults: dict[str, str] = {}
        """What is wrong with the others, by address; with a name, by the name."""
        self.certificates: dict[str, Validity] = {}
        """By address."""
        self._origin = origin
        self._check = check
        self._timeout_s = timeout_s

    async def run(self, resolver: Resolver) -> None:
        """Resolve the name, and connect to each server. Raises nothing for what is not there."""
        host = self._origin.host
        addresses: Sequence[str] = (host,)
        if self._origin.is_name:
            try:
                async with asyncio.timeout(_LOOKUP_S):
                    addresses = await resolver.resolve(host)
            except TimeoutError:
                self.faults[host] = f"its name was not resolved within {_LOOKUP_S:g} s"
                return
            except OSError as error:
                why = (error.strerror or type(error).__name__).lower()
                self.faults[host] = f"its name cannot be resolved: {why}"
                return
        servers = tuple(dict.fromkeys(addresses))[:_SERVERS]
        await asyncio.gather(*map(self._connect, servers))

    async def _connect(self, address: str) -> None:
        server = Server(self._origin, address, _do_nothing)
        connection = _Connection(server)
        try:
            await self._origin.connect(address, connection, self._timeout_s)
        except ConnectFailed as error:
            self.faults[address] = f"it cannot be connected to: {error}"
            return
        finally:
            connection.abort()
        if connection.validity is not None:
            self.certificates[address] = connection.validity
        fault = "" if self._check is None else await ask(self._check, server)
        if fault:
            self.faults[address] = f"it connects, but a check fails: {fault}"
        else:
            self.answered.append(address)


async def _upstream(patient: Patient, name: str, upstream: Upstream, lines: bytes) -> list[Finding]:
    try:
        origins = [make_origin(url, upstream.tls) for url in upstream.urls]
    except CertificateError as error:
        setting = f"upstreams.{name}.tls.{error.setting}"
        return [problem(f"upstreams.{name}.tls.{error}", f"correct {setting}")]
    check = make_check(upstream.health, lines)
    timeout_s = min(upstream.connect, _CONNECT_S)
    visits = [_Visit(origin, check, timeout_s) for origin in origins]
    await asyncio.gather(*(visit.run(patient.resolver) for visit in visits))
    now = datetime.fromtimestamp(patient.clock.time(), UTC)
    return [
        finding
        for visit in visits
        for finding in (
            *_answered(name, visit, check),
            *_faults(name, visit, works=any(other.answered for other in visits)),
            *_certificates(name, visit, now),
        )
    ]


def _answered(name: str, visit: _Visit, check: Check | None) -> Iterator[Finding]:
    if visit.answered:
        did = "connects" if check is None else f"answers {check.target.decode()}"
        where = [address for address in visit.answered if address not in visit.url]
        at = f", at {listed(where)}" if where else ""
        yield ok(f"{name}: {visit.url} {did}{at}")


def _faults(name: str, visit: _Visit, *, works: bool) -> Iterator[Finding]:
    for place, why in visit.faults.items():
        server = visit.url if place in visit.url else f"{visit.url} ({place})"
        remedy = f"see that it runs there, or correct upstreams.{name}"
        if works:
            yield warning(f"{name}: {server}: {why}", f"{remedy}; others of its servers work")
        else:
            yield problem(f"{name}: {server}: {why}", remedy)


def _certificates(name: str, visit: _Visit, now: datetime) -> Iterator[Finding]:
    texts = (complaint(validity, now) for validity in visit.certificates.values())
    for text in dict.fromkeys(filter(None, texts)):
        yield warning(f"{name}: {visit.url}: {text}", "renew it in time")


class _Connection(UpstreamConnection):
    """A connection that looks at its server's certificate."""

    validity: Validity | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert()
        if certificate:
            begins, ends = (
                datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate[name]), UTC)
                for name in ("notBefore", "notAfter")
            )
            self.validity = Validity(begins, ends)
        super().connection_made(transport)


def _do_nothing(connection: UpstreamConnection, error: Exception | None) -> None:
    """Let a connection end: nobody counts it."""
