"""Hosts that count together over TLS, as a user of their own, in a database or over a socket."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from sidecar.settings.valkey_urls import ValkeyURL
from tests.certificates import Authority
from tests.clock import ManualClock
from tests.limits.test_shared import Host
from tests.relay import Relay
from tests.valkey_cluster import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.valkey_cluster import ValkeyCluster
    from tests.valkey_server import ValkeyServer

PASSWORD = "canary7Zq"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> Path:
    return authority.write_root(tmp_path / "ca.pem")


@pytest.fixture
def certificate(authority: Authority, tmp_path: Path) -> tuple[Path, Path]:
    return authority.issue(tmp_path, name="client")


def counted(server: ValkeyServer) -> int:
    """Return of how many limits the server knows; it is tried under another name."""
    return sum(not name.endswith(b":probe") for name in server.call("KEYS", "*"))


async def test_requests_are_counted_over_tls_with_a_certificate_and_a_password(
    *,
    own_valkey: ValkeyServer,
    authority: Authority,
    ca_file: Path,
    certificate: tuple[Path, Path],
    acl_line: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own_valkey.call(*acl_line.replace(">password", f">{PASSWORD}").split())
    context = authority.server_context("127.0.0.1", asks=authority)
    async with Relay(own_valkey.port, context, at_once=True) as relay:
        url = ValkeyURL(
            *("127.0.0.1", relay.port, 3, "sidecar", SecretStr(PASSWORD), True, ca_file),
            *certificate,
        )
        async with Host(url, ManualClock()) as host:
            assert host.backend.is_up
            assert await host.pass_times(9) == 5
        async with Host(replace(url, cert_file=None, key_file=None), ManualClock()) as host:
            assert not host.backend.is_up
        async with Host(replace(url, password=SecretStr(f"no{PASSWORD}")), ManualClock()) as host:
            assert not host.backend.is_up
    own_valkey.call("SELECT", "3")
    assert counted(own_valkey) == 1
    assert "refuses the password" in caplog.text
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        pytest.param("127.0.0.1", False, id="another-authority"),
        pytest.param("other.example", True, id="another-name"),
    ],
)
async def test_a_server_that_is_not_who_it_should_be_counts_nothing(
    *,
    valkey_server: ValkeyServer,
    authority: Authority,
    ca_file: Path,
    name: str,
    trusted: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = (authority if trusted else Authority()).server_context(name)
    async with Relay(valkey_server.port, context, at_once=True) as relay:
        url = ValkeyURL("127.0.0.1", relay.port, tls=True, ca_file=ca_file)
        async with Host(url, ManualClock(), on_error="deny") as host:
            assert (await host.use()).reason == "limits_unavailable"
    assert "its certificate is not trusted" in caplog.text
    assert valkey_server.call("DBSIZE") == 0


async def test_requests_are_counted_over_a_socket(own_valkey: ValkeyServer) -> None:
    url = ValkeyURL(socket_path=own_valkey.socket_path, database=2)
    async with Host(url, ManualClock()) as host:
        assert await host.pass_times(9) == 5
        own_valkey.call("SELECT", "2")
        assert counted(own_valkey) == 1


async def test_a_cluster_is_counted_in_over_tls(
    *,
    own_cluster: ValkeyCluster,
    authority: Authority,
    ca_file: Path,
    certificate: tuple[Path, Path],
    acl_line: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = authority.server_context("127.0.0.1", asks=authority)
    async with AsyncExitStack() as stack:
        relays = []
        for server in own_cluster.primaries:
            server.call(*acl_line.replace(">password", f">{PASSWORD}").split())
            relay = await stack.enter_async_context(Relay(server.port, context, at_once=True))
            server.call("CONFIG", "SET", "cluster-announce-port", str(relay.port))
            relays.append(relay)
        await asyncio.to_thread(until, lambda: announced(own_cluster, relays))
        url = ValkeyURL(
            *("127.0.0.1", relays[0].port, 0, "sidecar", SecretStr(PASSWORD), True, ca_file),
            *certificate,
            is_cluster=True,
        )
        async with Host(url, ManualClock()) as host:
            decisions = await asyncio.gather(*(host.use(f"key-{n % 20}") for n in range(140)))
            assert sum(decision.allowed for decision in decisions) == 100
        assert all(relay.accepted for relay in relays)
        async with Host(replace(url, password=SecretStr(f"no{PASSWORD}")), ManualClock()) as host:
            assert not host.backend.is_up
    assert "refuses the password" in caplog.text
    assert PASSWORD not in caplog.text


def announced(cluster: ValkeyCluster, relays: list[Relay]) -> bool:
    """Return whether all nodes tell of the relays alone."""
    ports = {relay.port for relay in relays}
    return all(
        {port for _, _, (_, port, *_), *_ in server.call("CLUSTER", "SLOTS")} == ports
        for server in cluster.primaries
    )
