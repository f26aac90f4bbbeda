from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bench.credentials import Credentials, make_credentials
from bench.peers import envoy, nginx, sidecar
from bench.peers.base import Ports, Wiring
from bench.upstream import static
from sidecar.settings import parse

PORTS = Ports(listen=8001, admin=8002, static=8003, stream=8004)


@pytest.fixture
def credentials() -> Credentials:
    return make_credentials(3)


@pytest.fixture
def wiring(credentials: Credentials) -> Wiring:
    return Wiring(PORTS, credentials)


def envoy_filters(wiring: Wiring) -> list[dict[str, Any]]:
    (listener,) = envoy.configuration(wiring)["static_resources"]["listeners"]
    (manager,) = listener["filter_chains"][0]["filters"]
    filters: list[dict[str, Any]] = manager["typed_config"]["http_filters"]
    return filters


def test_keys_have_the_form_that_better_auth_gives_them(credentials: Credentials) -> None:
    raw = [key.raw for key in credentials.keys]
    assert len(set(raw)) == 3
    assert all(re.fullmatch("[A-Za-z]{64}", key) for key in raw)


def test_no_key_shows_in_a_repr(wiring: Wiring) -> None:
    assert wiring.credentials.key.raw not in repr(wiring)


def test_nginx_knows_every_key_and_forwards_none(wiring: Wiring) -> None:
    text = nginx.configuration(wiring)
    organization = wiring.credentials.tenant.organization_id
    for key in wiring.credentials.keys:
        assert f"{key.raw} {organization};" in text
    assert 'proxy_set_header X-Api-Key "";' in text
    assert "proxy_set_header x-organization-id $organization;" in text
    assert text.count("{") == text.count("}")


def test_nginx_listens_and_forwards_where_it_is_told(wiring: Wiring) -> None:
    text = nginx.configuration(wiring)
    assert "listen 127.0.0.1:8001 " in text
    assert re.findall(r"server 127\.0\.0\.1:(\d+);", text) == ["8003", "8004"]


def test_envoy_checks_the_key_then_counts_then_forwards(wiring: Wiring) -> None:
    names = [found["name"] for found in envoy_filters(wiring)]
    assert names == ["api_key_auth", "local_ratelimit", "router"]


def test_envoy_knows_every_key_and_hides_them(wiring: Wiring) -> None:
    auth = envoy_filters(wiring)[0]["typed_config"]
    assert {found["key"] for found in auth["credentials"]} == {
        key.raw for key in wiring.credentials.keys
    }
    assert auth["forwarding"] == {"header": "x-organization-id", "hide_credentials": True}


def test_envoy_lets_streams_last(wiring: Wiring) -> None:
    (listener,) = envoy.configuration(wiring)["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert [route["route"]["timeout"] for route in routes] == ["0s", "0s"]


@pytest.mark.parametrize("access_log", [True, False], ids=["log", "no-log"])
def test_the_sidecar_accepts_its_configuration(wiring: Wiring, access_log: bool) -> None:
    text = sidecar.configuration(wiring, Path("/data/store.db"), access_log=access_log)
    settings = parse(text)
    assert settings.log.access is access_log
    assert settings.listen.port == 8001
    assert [route.auth for route in settings.routes] == [("api_key",), ("api_key",)]


def test_the_upstream_answers_with_a_document_of_about_250_bytes() -> None:
    assert 240 <= len(static.ITEM) <= 260
    assert f"return 200 '{static.ITEM}';" in static.configuration(8003)
