"""URLs of Valkey and Redis servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from sidecar.settings.valkey_urls import LIMITS_BACKEND, VALKEY_URL, ValkeyURL

CANARY = "canary7Zq"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        pytest.param("valkey://h", ValkeyURL("h"), id="least"),
        pytest.param("valkey://h/", ValkeyURL("h"), id="slash"),
        pytest.param("redis://H.example:7000/3", ValkeyURL("h.example", 7000, 3), id="redis"),
        pytest.param("valkeys://h/0", ValkeyURL("h", tls=True), id="tls"),
        pytest.param("rediss://[::1]:7000", ValkeyURL("::1", 7000, tls=True), id="ipv6"),
        pytest.param("valkey://:p%2Fw@h", ValkeyURL("h", password=SecretStr("p/w")), id="password"),
        pytest.param(
            "valkey://a%40b:p:w@h",
            ValkeyURL("h", user="a@b", password=SecretStr("p:w")),
            id="user",
        ),
        pytest.param(
            "valkeys://h?ca_file=/a&cert_file=/c&key_file=/k",
            ValkeyURL("h", tls=True, ca_file=Path("/a"), cert_file=Path("/c"), key_file=Path("/k")),
            id="files",
        ),
        pytest.param(
            "unix:///run/valkey.sock?db=2",
            ValkeyURL(database=2, socket_path=Path("/run/valkey.sock")),
            id="socket",
        ),
        pytest.param(
            "unix://u:p@/run/a%20b.sock",
            ValkeyURL(user="u", password=SecretStr("p"), socket_path=Path("/run/a b.sock")),
            id="socket-and-user",
        ),
    ],
)
def test_a_valkey_url_has_its_clients_form(text: str, url: ValkeyURL) -> None:
    assert VALKEY_URL.parse(text) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("h:6379", "valkey://host:6379/0", id="no-scheme"),
        pytest.param("http://h", "valkey://host:6379/0", id="another-scheme"),
        pytest.param("valkey://", "valkey://host:6379/0", id="no-host"),
        pytest.param("valkey://h\0", "valkey://host:6379/0", id="nul"),
        pytest.param("valkey://h#a", "valkey://host:6379/0", id="fragment"),
        pytest.param("valkey://h/0/1", "valkey://host:6379/0", id="two-databases"),
        pytest.param("unix://run/valkey.sock", "valkey://host:6379/0", id="relative-socket"),
        pytest.param("unix:///run/", "valkey://host:6379/0", id="directory"),
        pytest.param("valkey://a_b.1", "a host's name or address", id="host"),
        pytest.param("valkey://h:0", "a port from 1 to 65535", id="port-0"),
        pytest.param("valkey://h:65536", "a port from 1 to 65535", id="port"),
        pytest.param("valkey://h/zero", "its database as a number", id="database"),
        pytest.param("valkey://h/65536", "its database as a number", id="database-too-high"),
        pytest.param("valkey://u@h", "a password with its user", id="user-alone"),
        pytest.param("valkey://:@h", "percent-encoded", id="empty-password"),
        pytest.param("valkey://:%ff@h", "percent-encoded", id="not-utf-8"),
        pytest.param("valkey://h?ca_file=/a", "valkeys://", id="files-without-tls"),
        pytest.param("valkeys://h?ca_file=a", "ca_file as an absolute path", id="relative-file"),
        pytest.param("valkeys://h?cert_file=/a", "both cert_file and key_file", id="half-a-pair"),
        pytest.param("valkeys://h?db=1", "no settings but ca_file", id="unknown-setting"),
        pytest.param("valkeys://h?ca_file=/a&ca_file=/a", "each once", id="twice"),
        pytest.param("unix:///run/v.sock?database=1", "no settings but db", id="socket-setting"),
        pytest.param("unix:///" + "a" * 107, "at most 107 bytes", id="long-socket"),
    ],
)
def test_any_other_is_refused_with_the_rule(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VALKEY_URL.parse(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"redis://u:{CANARY}@h:7000/3", "valkey://u@h:7000/3"),
        (f"rediss://:{CANARY}@[::1]", "valkeys://[::1]:6379/0"),
        (f"valkeys://h?ca_file=/{CANARY}", "valkeys://h:6379/0"),
        (f"unix://u:{CANARY}@/run/v.sock", "unix://u@/run/v.sock"),
        ("unix:///run/v.sock?db=2", "unix:///run/v.sock?db=2"),
    ],
)
def test_it_is_shown_without_its_secrets(text: str, shown: str) -> None:
    url = VALKEY_URL.parse(text)
    assert str(url) == shown
    assert f":{CANARY}" not in repr(url)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        pytest.param(
            "valkey+cluster://h",
            ValkeyURL("h", is_cluster=True),
            id="one",
        ),
        pytest.param(
            "rediss+cluster://u:p@a:1,[::1]:2,b/0?ca_file=/a",
            ValkeyURL(
                *("a", 1, 0, "u", SecretStr("p"), True, Path("/a")),
                is_cluster=True,
                others=(("::1", 2), ("b", 6379)),
            ),
            id="several",
        ),
    ],
)
def test_a_cluster_is_some_of_its_nodes(text: str, url: ValkeyURL) -> None:
    assert LIMITS_BACKEND.parse(text) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("valkey://a,b", r'"valkey\+cluster://…" where it names several', id="several"),
        pytest.param("valkey+cluster://a,a:6379", "each node once", id="twice"),
        pytest.param("valkey+cluster://a/1", "no database but 0", id="database"),
        pytest.param("valkey+cluster://a,", r"valkey\+cluster://host:6379,other", id="comma"),
        pytest.param("valkey+cluster://a,b:0", "a port from 1 to 65535", id="port"),
        pytest.param(
            "valkey+cluster://" + ",".join(f"h{n}" for n in range(17)),
            "at most 16 nodes",
            id="many",
        ),
        pytest.param(
            "valkey+cluster://a?ca_file=/a", r'"valkeys\+cluster://…" where', id="files-without-tls"
        ),
        pytest.param("unix+cluster:///run/v.sock", r"valkey\+cluster://", id="socket"),
    ],
)
def test_any_other_cluster_is_refused_with_the_rule(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LIMITS_BACKEND.parse(text)


def test_a_cluster_is_none_where_one_server_is_wanted() -> None:
    with pytest.raises(ValueError, match="must be a single server"):
        VALKEY_URL.parse("valkey+cluster://a,b")


def test_a_cluster_is_shown_without_its_secrets_and_each_node_as_a_server() -> None:
    url = LIMITS_BACKEND.parse(f"rediss+cluster://u:{CANARY}@a:1,[::1]:2")
    assert isinstance(url, ValkeyURL)
    assert str(url) == "valkeys+cluster://u@a:1,[::1]:2"
    assert CANARY not in repr(url)
    assert str(url.at("::1", 2)) == "valkeys://u@[::1]:2/0"
    assert url.at("b", 1).password == url.password
