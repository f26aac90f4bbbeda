"""The public port: its certificate, and whether descriptors reach."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sidecar.app import connections_to_upstreams, key_pair
from sidecar.doctor.findings import Finding, ok, problem, skipped, warning
from sidecar.proxy import descriptors
from sidecar.settings.key_pairs import CertificateError
from sidecar.settings.validity import complaint

if TYPE_CHECKING:
    from sidecar.doctor.patient import Patient


async def certificate(patient: Patient) -> list[Finding]:
    """Look at the certificate that clients are shown."""
    tls = patient.settings.listen.tls
    if tls is None:
        return [skipped("clients are spoken to in plain HTTP: there is no [listen.tls]")]
    try:
        _, validity = key_pair(tls).load()
    except CertificateError as error:
        remedy = f"correct listen.tls.{error.setting}"
        return [problem(f"listen.tls.{error}", remedy)]
    now = datetime.fromtimestamp(patient.clock.time(), UTC)
    text = complaint(validity, now)
    if text is None:
        return [ok(f"{tls.cert_file} is valid until {validity.ends:%Y-%m-%d}")]
    finding = warning if validity.holds_at(now) else problem
    return [finding(f"{tls.cert_file}: {text}", "renew it; it is loaded as soon as it changes")]


async def open_files(patient: Patient) -> list[Finding]:
    """Look at how many descriptors a process that is started like this one may have."""
    wanted = patient.settings.listen.max_connections
    to_upstreams = connections_to_upstreams(patient.settings)
    needed = descriptors.needed(wanted, to_upstreams)
    limit = descriptors.raise_limit(needed)
    if limit >= needed:
        return [ok(f"{needed} open files suffice, and as many may be had from here")]
    served = descriptors.allot(limit, wanted, to_upstreams).connections
    return [
        warning(
            f"started from here, {limit} open files may be had, and {needed} may be needed:"
            f" {served} clients are served at once, of listen.max_connections = {wanted}",
            f"allow the service {needed} (LimitNOFILE= in systemd, ulimit -Hn in a shell), or lower"
            " listen.max_connections",
        )
    ]
