"""What the sidecar takes of a client's bytes, and what an upstream gets of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.identity import Demand
from sidecar.routes import Route
from tests.differential.strict import read_requests
from tests.fuzz.requests import LIMITS
from tests.proxy.conversation import OK, Conversation

if TYPE_CHECKING:
    from tests.differential.strict import Request

_EVERYTHING = (Route("/", "chat", Demand(frozenset()), body_bytes=1024 * 1024),)
_OK_TO_HEAD = OK.removesuffix(b"ok")


@dataclass(frozen=True)
class Taken:
    """What became of a client's bytes."""

    forwarded: list[bytes]
    """What each connection to the upstream carried."""
    requests: list[Request]
    """The whole requests among it, as h11 reads them."""
    is_over: bool
    """Whether nothing more is read of the client: it was refused, or asked for the close."""


async def take(raw: bytes) -> Taken:
    """Send *raw* through a data plane whose one route is public and answers everything."""
    async with Conversation(routes=_EVERYTHING, head_limits=LIMITS) as talk:
        client = talk.connect()
        client.send(raw)
        await talk.settle()
        answered = 0
        while len(whole := _whole(talk)) > answered:
            talk.upstream.send(_OK_TO_HEAD if whole[-1].method == b"HEAD" else OK)
            answered += 1
            await talk.settle()
        forwarded = [upstream.received for upstream in talk.network.upstreams]
        taken = Taken(forwarded, whole, client.end != "open")
        logged = [line for line in talk.log if line["status"] == 200]
        assert [line["method"].encode() for line in logged] == [each.method for each in whole]
        assert [line["bytes_in"] for line in logged] == [len(each.body) for each in whole]
    return taken


def _whole(talk: Conversation) -> list[Request]:
    carried = (read_requests(upstream.received) for upstream in talk.network.upstreams)
    return [request for requests in carried for request in requests if request.is_whole]
