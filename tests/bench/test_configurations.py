from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from bench.credentials import Credentials, make_credentials
from bench.load.mixture import COUNT, mixed_targets
from bench.peers import caddy, envoy, nginx, sidecar, traefik
from bench.peers.base import MIXED_KEYS, Ports, Wiring, identity_headers
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


def test_traefik_lets_a_known_key_in_and_tells_the_rest_who_it_is(wiring: Wiring) -> None:
    found = traefik.routes(wiring)["http"]
    rules = {name: router["rule"] for name, router in found["routers"].items()}
    assert rules["others"] == "PathPrefix(`/`)"
    for number, key in enumerate(wiring.credentials.keys):
        assert f"Header(`X-Api-Key`, `{key.raw}`)" in rules[f"static-{number}"]
        assert "PathPrefix(`/stream/`)" in rules[f"stream-{number}"]
    told = found["middlewares"]["identify"]["headers"]["customRequestHeaders"]
    assert told == {"X-Api-Key": "", **identity_headers(wiring.credentials)}


def test_traefik_answers_everybody_else_with_401(wiring: Wiring) -> None:
    found = traefik.routes(wiring)["http"]
    others = found["routers"]["others"]
    assert others["middlewares"] == ["refuse"]
    assert others["priority"] < min(
        router["priority"] for name, router in found["routers"].items() if name != "others"
    )
    assert found["middlewares"]["refuse"]["ipAllowList"]["rejectStatusCode"] == 401


def test_traefik_knows_the_keys_of_the_load_alone() -> None:
    wiring = Wiring(PORTS, make_credentials(MIXED_KEYS + 5))
    assert len(traefik.routes(wiring)["http"]["routers"]) == 1 + 2 * MIXED_KEYS


def test_traefik_listens_and_forwards_where_it_is_told(wiring: Wiring) -> None:
    static_part = traefik.static_configuration(wiring, Path("/run/routes.yml"))
    assert static_part["entryPoints"]["in"]["address"] == "127.0.0.1:8001"
    assert static_part["providers"]["file"]["filename"] == "/run/routes.yml"
    services = traefik.routes(wiring)["http"]["services"]
    urls = [service["loadBalancer"]["servers"][0]["url"] for service in services.values()]
    assert urls == ["http://127.0.0.1:8003", "http://127.0.0.1:8004"]


def test_caddy_knows_every_key_and_forwards_none(wiring: Wiring) -> None:
    text = caddy.configuration(wiring)
    organization = wiring.credentials.tenant.organization_id
    for key in wiring.credentials.keys:
        assert f"\t\t{key.raw} {organization}\n" in text
    assert "header_up -X-Api-Key\n" in text
    assert "header_up x-organization-id {organization}\n" in text
    assert text.count("{") == text.count("}")


def test_caddy_listens_and_forwards_where_it_is_told(wiring: Wiring) -> None:
    text = caddy.configuration(wiring)
    assert "\nhttp://:8001 {\n\tbind 127.0.0.1\n" in text
    assert re.findall(r"reverse_proxy 127\.0\.0\.1:(\d+) ", text) == ["8003", "8004"]


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


def test_no_two_mixed_requests_follow_each_other_with_the_same_head(
    credentials: Credentials,
) -> None:
    targets = mixed_targets("127.0.0.1", 8001, credentials.keys)
    assert len(targets) == COUNT
    assert {target.headers["x-api-key"] for target in targets} == {
        key.raw for key in credentials.keys
    }
    assert len({target.path for target in targets}) == COUNT
    alike = sum(one.headers == other.headers for one, other in itertools.pairwise(targets))
    # Two shells with the same key may meet by chance.
    assert alike < COUNT / 20


def test_every_run_sends_the_same_mixture(credentials: Credentials) -> None:
    twice = [mixed_targets("127.0.0.1", 8001, credentials.keys) for _ in range(2)]
    assert twice[0] == twice[1]
