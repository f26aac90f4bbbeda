"""What holds for every test."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests import betterauth
from tests.postgres import PostgresServer
from tests.valkey_cluster import ValkeyCluster
from tests.valkey_server import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.settings.store_urls import PostgresURL

# How long an example takes is the machine's doing; a test that hangs is ended by its timeout.
settings.register_profile("sidecar", parent=settings(), deadline=None)
settings.load_profile("sidecar")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a command did to the log of this process."""
    root, own = logging.getLogger(), logging.getLogger("sidecar")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level, own.level = before[0], before[1], before[2]
    # Levels are remembered by each logger.
    root.setLevel(before[1])
    own.setLevel(before[2])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run one server for all tests that need any."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_dump(postgres_server: PostgresServer) -> PostgresURL:
    """Load what Better Auth wrote into PostgreSQL; it is only read."""
    postgres_server.make_database(betterauth.DUMP, betterauth.dump(betterauth.DUMP))
    return postgres_server.url(database=betterauth.DUMP)


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[ValkeyServer]:
    """Run one server for all tests that only read and write."""
    server = ValkeyServer()
    yield server
    server.close()


@pytest.fixture
def valkey_server(shared_valkey: ValkeyServer) -> ValkeyServer:
    """Return the server, empty."""
    shared_valkey.flush()
    return shared_valkey


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """Run a server for one test, which may stop it."""
    server = ValkeyServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[ValkeyCluster]:
    """Run one cluster for all tests that leave its nodes running; slots may move."""
    cluster = ValkeyCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def valkey_cluster(shared_cluster: ValkeyCluster) -> ValkeyCluster:
    """Return the cluster, empty."""
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture
def own_cluster() -> Iterator[ValkeyCluster]:
    """Run a cluster for one test, which may stop its nodes; the first has a replica."""
    cluster = ValkeyCluster(replica=True)
    yield cluster
    cluster.close()
