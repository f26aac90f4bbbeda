"""The PROXY header: read whole, refused when it is not one, and never taken from garbage."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.proxy.proxy_protocol import (
    HEADER_BYTES,
    LINE_BYTES,
    BadProxyHeader,
    Origin,
    ProxyHeader,
    read,
)

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
"""As the specification writes it in its section 2.2."""

IPV4 = st.ip_addresses(v=4)
IPV6 = st.ip_addresses(v=6)
PORT = st.integers(0, 65535)
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def binary(command: int, family: int, body: bytes, *, length: int | None = None) -> bytes:
    """Return a header of version 2; *length* is what it says its body's length is."""
    told = len(body) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, family, told) + body


def addresses(source: str, destination: str, port: int = 1111, to_port: int = 443) -> bytes:
    packed = [ipaddress.ip_address(address).packed for address in (source, destination)]
    return b"".join(packed) + struct.pack("!HH", port, to_port)


OVER_IPV4 = addresses("192.0.2.7", "192.0.2.1")
OVER_IPV6 = addresses("2001:db8::7", "2001:db8::1")
UNIX = b"/run/client.sock".ljust(108, b"\0") + b"/run/lb.sock".ljust(108, b"\0")
TLVS = b"\x03\x00\x04\xde\xad\xbe\xef" + b"\x01\x00\x08http/1.1" + b"\x04\x00\x00"

GOOD = {
    "v1-ipv4": (b"PROXY TCP4 192.0.2.7 192.0.2.1 1111 443\r\n", ("192.0.2.7", 1111)),
    "v1-ipv6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 1111 443\r\n", ("2001:db8::7", 1111)),
    "v1-mapped": (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 65535 0\r\n", ("::ffff:192.0.2.7", 65535)),
    "v1-longest-ipv6": (
        b"PROXY TCP6 %b %b 65535 65535\r\n" % (b":".join([b"ffff"] * 8), b":".join([b"ffff"] * 8)),
        (":".join(["ffff"] * 8), 65535),
    ),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", Origin.UNKNOWN),
    "v1-unknown-with-more": (b"PROXY UNKNOWN ffff::1 whatever 65535 x\r\n", Origin.UNKNOWN),
    "v2-ipv4": (binary(0x21, 0x11, OVER_IPV4), ("192.0.2.7", 1111)),
    "v2-ipv6": (binary(0x21, 0x21, OVER_IPV6), ("2001:db8::7", 1111)),
    "v2-ipv4-and-more": (binary(0x21, 0x11, OVER_IPV4 + TLVS), ("192.0.2.7", 1111)),
    "v2-ipv6-and-more": (binary(0x21, 0x21, OVER_IPV6 + TLVS), ("2001:db8::7", 1111)),
    "v2-longest": (
        binary(0x21, 0x11, OVER_IPV4.ljust(HEADER_BYTES - 16, b"\xee")),
        ("192.0.2.7", 1111),
    ),
    "v2-unspecified": (binary(0x21, 0x00, b""), Origin.UNKNOWN),
    "v2-unspecified-and-more": (binary(0x21, 0x00, TLVS), Origin.UNKNOWN),
    "v2-unix": (binary(0x21, 0x31, UNIX), Origin.UNKNOWN),
    "v2-datagram": (binary(0x21, 0x12, OVER_IPV4), Origin.UNKNOWN),
    "v2-local": (binary(0x20, 0x00, b""), Origin.PROXY),
    "v2-local-with-addresses": (binary(0x20, 0x11, OVER_IPV4), Origin.PROXY),
    "v2-local-of-no-known-family": (binary(0x20, 0xFF, b"??"), Origin.PROXY),
}
EACH_GOOD = pytest.mark.parametrize(("header", "expected"), GOOD.values(), ids=GOOD)
BEHIND = b"GET / HTTP/1.1\r\n\r\n"


def header_of(header: bytes, expected: Origin | tuple[str, int]) -> ProxyHeader:
    if isinstance(expected, Origin):
        return ProxyHeader(len(header), expected)
    return ProxyHeader(len(header), Origin.CLIENT, expected)


@EACH_GOOD
@pytest.mark.parametrize("behind", [b"", BEHIND, b"\r\n", SIGNATURE, b"\x16\x03\x01"])
def test_a_header_is_read_up_to_its_last_byte(
    header: bytes, expected: Origin | tuple[str, int], behind: bytes
) -> None:
    assert read(header + behind) == header_of(header, expected)


@pytest.mark.parametrize("header", [header for header, _ in GOOD.values()], ids=GOOD)
def test_a_header_that_is_cut_anywhere_is_waited_for(header: bytes) -> None:
    assert [read(header[:end]) for end in range(len(header))] == [None] * len(header)


BAD = {
    "http": BEHIND,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "lower-case": b"proxy TCP4 192.0.2.7 192.0.2.1 1 2\r\n",
    "space-before": b" PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n",
    "two-spaces": b"PROXY  TCP4 192.0.2.7 192.0.2.1 1 2\r\n",
    "tab": b"PROXY\tTCP4 192.0.2.7 192.0.2.1 1 2\r\n",
    "udp": b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n",
    "no-destination": b"PROXY TCP4 192.0.2.7 1 2\r\n",
    "more-behind": b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n",
    "space-behind": b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 \r\n",
    "line-feed-alone": b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n" + b"x" * LINE_BYTES,
    "line-feed-within": b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\nx\r\n",
    "unknown-with-line-feed": b"PROXY UNKNOWN \n\r\n",
    "unknowns": b"PROXY UNKNOWNS\r\n",
    "other-version": b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
    "other-version-6": b"PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n",
    "leading-zero": b"PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n",
    "three-parts": b"PROXY TCP4 192.0.2 192.0.2.1 1 2\r\n",
    "name": b"PROXY TCP4 localhost 192.0.2.1 1 2\r\n",
    "zone": b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
    "bad-destination": b"PROXY TCP4 192.0.2.7 192.0.2.256 1 2\r\n",
    "port-too-high": b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 2\r\n",
    "destination-port-too-high": b"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n",
    "port-with-zero": b"PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n",
    "port-signed": b"PROXY TCP4 192.0.2.7 192.0.2.1 +1 2\r\n",
    "beyond-ascii": "PROXY TCP4 192.0.2.\u0667 192.0.2.1 1 2\r\n".encode(),
    "line-too-long": b"PROXY UNKNOWN " + b"x" * (LINE_BYTES - 15) + b"\r\n",
    "endless": b"PROXY TCP4 " + b"1" * 5000,
    "v2-version-1": binary(0x11, 0x11, OVER_IPV4),
    "v2-version-3": binary(0x31, 0x11, OVER_IPV4),
    "v2-command-2": binary(0x22, 0x11, OVER_IPV4),
    "v2-family-4": binary(0x21, 0x41, OVER_IPV4),
    "v2-transport-3": binary(0x21, 0x13, OVER_IPV4),
    "v2-too-short-ipv4": binary(0x21, 0x11, OVER_IPV4[:-1]),
    "v2-too-short-ipv6": binary(0x21, 0x21, OVER_IPV6[:-1]),
    "v2-empty": binary(0x21, 0x11, b""),
    "v2-too-long": binary(0x21, 0x11, b"", length=HEADER_BYTES - 15),
    "v2-longest-length": binary(0x20, 0x00, b"", length=0xFFFF),
    "v2-other-signature": b"\r\n\r\n\x00\r\nQUIT\r\x21\x11\x00\x0c" + OVER_IPV4,
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        read(data)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_header_never_is_one_on_the_way(data: bytes) -> None:
    for end in range(len(data)):
        try:
            assert read(data[:end]) is None
        except BadProxyHeader:
            break


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=64).map(lambda tail: b"PROXY " + tail),
        st.binary(max_size=64).map(lambda tail: SIGNATURE + tail),
        st.text("TCP46UNKNOWN 0123456789abcdef:.\r\n", max_size=120).map(
            lambda text: b"PROXY " + text.encode()
        ),
    )
)
@example(b"")
@example(b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n")
def test_whatever_comes_has_one_meaning_however_it_is_cut(data: bytes) -> None:
    """What was refused or read once never changes with the bytes that follow."""
    settled: ProxyHeader | str | None = None
    for end in range(len(data) + 1):
        try:
            found: ProxyHeader | str | None = read(data[:end])
        except BadProxyHeader:
            found = "refused"
        if settled is not None:
            assert found == settled
        settled = found
        if isinstance(found, ProxyHeader):
            assert found.size <= end
            assert (found.source is not None) is (found.origin is Origin.CLIENT)
    if len(data) >= HEADER_BYTES:
        assert settled is not None


@given(st.integers(0, 255), st.binary(max_size=300))
def test_a_changed_byte_never_yields_another_client(place: int, junk: bytes) -> None:
    """A signature or a word of the line that is not exact is no header at all."""
    line = b"PROXY TCP4 192.0.2.7 192.0.2.1 1111 443\r\n"
    for header in (line, binary(0x21, 0x11, OVER_IPV4)):
        at = place % 11 if header is line else place % 12
        changed = header[:at] + bytes([header[at] ^ (1 + place % 255)]) + header[at + 1 :] + junk
        try:
            found = read(changed)
        except BadProxyHeader:
            continue
        assert found is None or found.source is None


@given(st.one_of(st.tuples(IPV4, IPV4), st.tuples(IPV6, IPV6)), PORT, PORT, st.binary(max_size=64))
def test_every_address_is_read_as_it_was_written(
    pair: tuple[IPAddress, IPAddress],
    port: int,
    to_port: int,
    behind: bytes,
) -> None:
    source, destination = pair
    family = b"4" if source.version == 4 else b"6"
    line = b"PROXY TCP%b %b %b %d %d\r\n" % (
        *(family, str(source).encode(), str(destination).encode()),
        *(port, to_port),
    )
    body = addresses(str(source), str(destination), port, to_port)
    for header in (line, binary(0x21, 0x11 if source.version == 4 else 0x21, body)):
        found = read(header + behind)
        assert found == ProxyHeader(len(header), Origin.CLIENT, (str(source), port))
