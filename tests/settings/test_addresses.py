"""Hosts, networks, origins and URLs."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.settings import UnixURL, UpstreamURL
from sidecar.settings.addresses import (
    FILE,
    HOST,
    NETWORK,
    ORIGIN,
    READER_ORIGIN,
    UPSTREAM_URL,
)


@pytest.mark.parametrize(
    ("text", "host", "port", "url"),
    [
        pytest.param("http://127.0.0.1:9001", "127.0.0.1", 9001, None, id="ipv4"),
        pytest.param("http://[::1]:9001", "::1", 9001, None, id="ipv6"),
        pytest.param("http://[FD00::A]", "fd00::a", 80, "http://[fd00::a]", id="without-port"),
        pytest.param("http://chat", "chat", 80, None, id="name"),
        pytest.param("http://chat_api:80", "chat_api", 80, "http://chat_api", id="container-name"),
        pytest.param(
            "HTTP://Chat.Example:81", "chat.example", 81, "http://chat.example:81", id="capitals"
        ),
        pytest.param("https://chat", "chat", 443, None, id="https"),
        pytest.param("HTTPS://chat:443", "chat", 443, "https://chat", id="https-port"),
        pytest.param("https://chat:80", "chat", 80, None, id="https-on-the-others-port"),
        pytest.param("http://chat:443", "chat", 443, None, id="http-on-the-others-port"),
    ],
)
def test_an_upstream_url_gives_host_port_and_authority(
    text: str, host: str, port: int, url: str | None
) -> None:
    read = UPSTREAM_URL.parse(text)
    assert isinstance(read, UpstreamURL)
    assert (read.host, read.port) == (host, port)
    assert str(read) == (url or text)
    assert read.authority == str(read).partition("://")[2]


@pytest.mark.parametrize(
    ("text", "is_name"),
    [
        ("http://chat", True),
        ("https://a.b:1", True),
        ("http://10.0.0.1", False),
        ("http://[::1]", False),
    ],
)
def test_a_host_that_is_no_address_has_to_be_resolved(text: str, is_name: bool) -> None:
    read = UPSTREAM_URL.parse(text)
    assert isinstance(read, UpstreamURL)
    assert read.is_name is is_name


@given(
    host=st.ip_addresses().map(str)
    | st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z])?", fullmatch=True),
    port=st.integers(1, 65535),
    scheme=st.sampled_from(("http", "https")),
)
def test_an_upstream_url_reads_back_what_it_writes(host: str, port: int, scheme: str) -> None:
    url = UpstreamURL(host, port, scheme)
    assert UPSTREAM_URL.parse(str(url)) == url


@pytest.mark.parametrize(
    "path", ["/run/chat.sock", "/run/a b.sock", "/x", "/" + "x" * 106, "/" + "é" * 53]
)
def test_a_unix_socket_is_named_by_its_path(path: str) -> None:
    url = UPSTREAM_URL.parse(f"unix:{path}")
    assert url == UnixURL(path)
    assert str(url) == f"unix:{path}"
    assert url.authority == "localhost"


@pytest.mark.parametrize("path", ["/" + "x" * 107, "/" + "é" * 54])
def test_a_path_that_no_socket_can_have_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a socket whose path has at most 107 bytes$"):
        UPSTREAM_URL.parse(f"unix:{path}")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("127.0.0.1:9001", id="no-scheme"),
        pytest.param("ftp://chat", id="another-scheme"),
        pytest.param("http+unix://%2Frun%2Fchat.sock", id="unix-in-http"),
        pytest.param("unix:", id="no-path"),
        pytest.param("unix:chat.sock", id="relative-path"),
        pytest.param("unix:///run/chat.sock", id="unix-with-slashes"),
        pytest.param("unix:/run/", id="directory"),
        pytest.param("unix:/run/chat\0.sock", id="nul"),
        pytest.param("http://", id="no-host"),
        pytest.param("http://:9001", id="port-alone"),
        pytest.param("http://chat/", id="slash"),
        pytest.param("https://chat/v1", id="path"),
        pytest.param("http://chat?x=1", id="query"),
        pytest.param("http://chat#x", id="fragment"),
        pytest.param("http://user:password@chat", id="userinfo"),
        pytest.param("http://chat:0", id="port-0"),
        pytest.param("http://chat:65536", id="port-65536"),
        pytest.param("http://chat:", id="empty-port"),
        pytest.param("http://::1:9001", id="ipv6-without-brackets"),
        pytest.param("http://[127.0.0.1]", id="ipv4-in-brackets"),
        pytest.param("http://[fe80::1%25eth0]", id="zone"),
        pytest.param("http://10.1", id="short-ipv4"),
        pytest.param("http://256.0.0.1", id="no-ipv4"),
        pytest.param("http://a b", id="space"),
        pytest.param("http://chat\r\nx: y", id="line-break"),
        pytest.param("http://münchen.example", id="not-ascii"),
    ],
)
def test_an_upstream_url_is_scheme_host_and_port_or_a_path_alone(text: str) -> None:
    expected = r'^must be "http://host:port", "https://host:port" or "unix:/path" and nothing after'
    with pytest.raises(ValueError, match=expected):
        UPSTREAM_URL.parse(text)


@pytest.mark.parametrize(
    "text",
    ["https://app.example.com", "http://localhost:3000", "http://[::1]:3000", "tauri://localhost"],
)
def test_an_origin_as_browsers_send_it_is_kept_as_it_is(text: str) -> None:
    assert ORIGIN.parse(text) == text
    assert READER_ORIGIN.parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("null", id="null"),
        pytest.param("app.example.com", id="no-scheme"),
        pytest.param("https://app.example.com/", id="slash"),
        pytest.param("https://App.example.com", id="capital"),
        pytest.param("HTTPS://app.example.com", id="capital-scheme"),
        pytest.param("https://app.example.com:443", id="https-port"),
        pytest.param("http://app.example.com:80", id="http-port"),
        pytest.param("http://app.example.com:08080", id="leading-zero"),
        pytest.param("https://*.example.com", id="wildcard"),
        pytest.param("https://user@app.example.com", id="userinfo"),
        pytest.param("https://app.example.com https://b.example.com", id="two"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(text: str) -> None:
    """It would never match, and nobody would know why."""
    for form in (ORIGIN, READER_ORIGIN):
        with pytest.raises(ValueError, match=r"^must be an origin as browsers send it"):
            form.parse(text)


def test_any_origin_may_read_but_none_is_trusted_unnamed() -> None:
    assert READER_ORIGIN.parse("*") == "*"
    with pytest.raises(ValueError, match="must be an origin"):
        ORIGIN.parse("*")


@pytest.mark.parametrize("text", ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1", "0.0.0.0/0"])
def test_a_network_is_an_address_with_or_without_a_prefix(text: str) -> None:
    assert NETWORK.parse(text) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::fffe:0:0/96", "::fffe:0:0/96"),
        ("::/80", "::/80"),
    ],
)
def test_a_network_of_mapped_addresses_is_one_of_ipv4(text: str, network: str) -> None:
    """Peers are compared in IPv4's own form, and would never be in the other."""
    assert NETWORK.parse(text) == ip_network(network)


@pytest.mark.parametrize("text", ["tls.crt", "/etc/sidecar/tls.crt", "a folder/t\u00e4st.pem"])
def test_a_file_is_kept_as_it_is_written(text: str) -> None:
    assert FILE.parse(text) == Path(text)


@pytest.mark.parametrize("text", ["", " tls.crt", "a\0b", "-----BEGIN CERTIFICATE-----\nMII"])
def test_what_is_no_path_of_a_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be the path of a file, such as"):
        FILE.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("10.0.0.1/8", "bits are set beyond its prefix", id="host-bits"),
        pytest.param("10.0.0.0/33", "must be a network such as", id="prefix"),
        pytest.param("proxy.example.com", "must be a network such as", id="name"),
        pytest.param("", "must be a network such as", id="empty"),
    ],
)
def test_what_is_not_a_network_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NETWORK.parse(text)


@pytest.mark.parametrize("text", ["10.0.0.1", "::", "localhost", "a.b-c.example", "Chat_1"])
def test_a_host_is_an_address_or_a_name(text: str) -> None:
    assert HOST.parse(text) == text.lower()


@pytest.mark.parametrize(
    "text", ["", " ", "[::1]", "a..b", "-a", "a.", "1.2.3", "host:80", "a" * 64, "a." * 127 + "ab"]
)
def test_what_no_resolver_takes_for_one_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be an IP address or a host name$"):
        HOST.parse(text)
