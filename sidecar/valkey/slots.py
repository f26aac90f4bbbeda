"""The slots of a cluster: which one a name is in, and who has which.

A name is in the slot of its hash tag, what stands between its first `{` and the next `}`; so names
with one tag are on one node. https://valkey.io/topics/cluster-spec/
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final, NamedTuple

from sidecar.valkey.errors import ValkeyUnavailable

SLOTS: Final = 16_384


class Range(NamedTuple):
    """Slots in a row that one node has."""

    first: int
    last: int
    host: str
    port: int


def slot_of(name: bytes) -> int:
    """Return the slot of a *name* that has a hash tag."""
    return crc_hqx(tag_of(name), 0) % SLOTS


def tag_of(name: bytes) -> bytes:
    """Return the hash tag of a *name* that has one."""
    begin = name.find(b"{") + 1
    return name[begin : name.find(b"}", begin)]


def read_ranges(reply: object, host: str) -> list[Range]:
    """Return who has which slots, by the reply to `CLUSTER SLOTS` of the node at *host*.

    A node without an address of its own is at that host. Raises ValkeyUnavailable.
    """
    if isinstance(reply, list) and len(reply) <= SLOTS:
        ranges = [_range(each, host) for each in reply]
        if None not in ranges:
            return [each for each in ranges if each is not None]
    raise ValkeyUnavailable(f"{host}: what answers is no Valkey cluster")


def _range(entry: object, host: str) -> Range | None:
    match entry:
        case [int(first), int(last), [bytes() | None as name, int(port), *_], *_]:
            text = (name or b"").decode(errors="replace")
            is_told = text not in {"", "?"}
            if 0 <= first <= last < SLOTS and 0 < port < 65_536 and text.isprintable():
                return Range(first, last, text if is_told else host, port)
        case _:
            pass
    return None
