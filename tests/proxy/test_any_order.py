"""Whatever clients, upstreams, the store and the clock do, in whatever order: nothing is left over.

What a `Conversation` checks at its end holds after every one of these; and on the way nobody ever
sees anything but HTTP.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.identity import Quota
from tests.proxy.conversation import BY_COOKIE, BY_KEY, OK, Conversation
from tests.proxy.memory_transport import FarEnd

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = b"Host: api.test\r\n"
SMUGGLED = b"GET /public/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"
"""Stands in bodies alone; an upstream that sees it as a request was lied to."""

LENGTH = b"Content-Length: %d\r\n" % len(SMUGGLED)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\nT: u\r\n\r\n" % (len(SMUGGLED), SMUGGLED)


def ask(path: bytes, *lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    method = b"POST" if body else b"GET"
    return b"%b %b HTTP/%b\r\n%b%b\r\n%b" % (method, path, version, HOST, b"".join(lines), body)


REQUESTS = (
    ask(b"/public"),
    ask(b"/v1/chat", BY_KEY),
    ask(b"/v1/chat", BY_COOKIE),
    ask(b"/v1/chat"),
    ask(b"/nowhere", LENGTH, body=SMUGGLED),
    ask(b"/public", LENGTH, body=SMUGGLED),
    ask(b"/v1/chat", BY_KEY, CHUNKED, body=CHUNKS),
    ask(b"/small", CHUNKED, body=CHUNKS),
    ask(b"/v1/chat", BY_KEY, LENGTH, b"Expect: 100-continue\r\n", body=SMUGGLED),
    ask(b"/public", b"Connection: close\r\n"),
    ask(b"/public", version=b"1.0"),
    ask(b"/public", b"Connection: keep-alive\r\n", version=b"1.0"),
    ask(b"/public/../v1"),
    b"nothing like HTTP\r\n\r\n",
)
ANSWERS = (
    OK,
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the close",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
    b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90_000,
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    OK + OK,
    b"oops\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\noops",
)


class Play:
    """A conversation with two clients, played action by action."""

    def __init__(self, talk: Conversation) -> None:
        self.talk = talk
        self.clients = [talk.connect(), talk.connect()]
        self._rests = [b"", b""]
        self._answer_rest = b""

    def send(self, who: int, request: int, cut: int) -> None:
        """Have a client send what it has begun, or else a request, up to some place."""
        raw = self._rests[who] or REQUESTS[request % len(REQUESTS)]
        at = 1 + cut % len(raw)
        self.clients[who].send(raw[:at])
        self._rests[who] = raw[at:]

    def answer(self, who: int, answer: int, cut: int) -> None:
        """Have an upstream send what it has begun, or else an answer, up to some place."""
        if self.upstream(who) is not None:
            raw = self._answer_rest or ANSWERS[answer % len(ANSWERS)]
            at = 1 + cut % len(raw)
            self.act(who, lambda end: end.send(raw[:at]))
            self._answer_rest = raw[at:]

    def upstream(self, who: int) -> FarEnd | None:
        """Return one of the upstream's open connections."""
        is_open = [end for end in self.talk.network.upstreams if end.is_open]
        return is_open[who % len(is_open)] if is_open else None

    def act(self, who: int, action: Callable[[FarEnd], None]) -> None:
        upstream = self.upstream(who)
        if upstream is not None:
            action(upstream)

    def renew(self, who: int) -> None:
        """Let a client go and another come."""
        self.clients[who].reset()
        self.clients[who] = self.talk.connect()
        self._rests[who] = b""

    def hold(self, what: str) -> None:
        """Hold back what the store or the network says, or let it go."""
        held = getattr(self.talk, what)
        if held.gate is None or held.gate.done():
            held.gate = asyncio.get_running_loop().create_future()
        else:
            held.gate.set_result(None)


WHO = st.integers(0, 1)
PLACE = st.integers(0, 200) | st.just(10**6 - 1)
ACTIONS = st.one_of(
    st.tuples(st.just("send"), WHO, st.integers(0, 13), st.just(10**6 - 1) | PLACE),
    st.tuples(st.just("answer"), WHO, st.integers(0, 9), st.just(10**6 - 1) | PLACE),
    st.tuples(st.sampled_from(("eof", "reset", "renew", "stop", "read")), WHO),
    st.tuples(st.sampled_from(("up-eof", "up-reset", "up-stop", "up-read")), WHO),
    st.tuples(st.just("hold"), st.sampled_from(("store", "network"))),
    st.tuples(st.just("wait"), st.sampled_from((1.0, 11.0, 31.0, 61.0, 301.0))),
    st.tuples(st.just("refuse"), st.booleans()),
    st.just(("settle",)),
    st.just(("drain",)),
)


async def play(actions: list[tuple[object, ...]]) -> None:
    async with Conversation(upstream_connections=2) as talk:
        talk.change_key(quota=Quota(max_requests=3, window_s=60.0))
        acting = Play(talk)
        for name, *details in actions:
            await _act(acting, str(name), *details)
        await talk.settle()
        assert b"smuggled" not in b"".join(
            target for upstream in talk.network.upstreams for target in _targets(upstream)
        )
        for client in talk.clients:
            _check_responses(client.received)


async def _act(acting: Play, name: str, *details: object) -> None:
    talk = acting.talk
    if name in ("send", "answer", "renew", "hold"):
        getattr(acting, name)(*details)
    elif name in CLIENT_ACTIONS:
        CLIENT_ACTIONS[name](acting.clients[int(str(details[0]))])
    elif name in UPSTREAM_ACTIONS:
        acting.act(int(str(details[0])), UPSTREAM_ACTIONS[name])
    elif name == "wait":
        await talk.wait(float(str(details[0])))
    elif name == "refuse":
        talk.network.error = ConnectionRefusedError() if details[0] else None
    elif name == "settle":
        await talk.settle()
    else:
        talk.plane.draining = True
        for connection in list(talk.plane.connections):
            connection.drain()


CLIENT_ACTIONS: dict[str, Callable[[FarEnd], None]] = {
    "eof": FarEnd.send_eof,
    "reset": FarEnd.reset,
    "stop": FarEnd.stop_reading,
    "read": FarEnd.read,
}
UPSTREAM_ACTIONS = {f"up-{name}": action for name, action in CLIENT_ACTIONS.items()}


def _targets(upstream: FarEnd) -> list[bytes]:
    """Return the targets of all requests that an upstream received whole, or broken off."""
    if not upstream.received:
        return []
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(upstream.received)
    targets = []
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            targets.append(event.target)
        elif isinstance(event, h11.EndOfMessage):
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        elif event is h11.NEED_DATA:
            return targets


def _check_responses(raw: bytes) -> None:
    """Check that what a client got are whole responses, the last of which may be cut off."""
    while raw:
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(raw)
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return
        rest = connection.trailing_data[0]
        assert len(rest) < len(raw)
        raw = rest


WHOLE = 10**6 - 1


@settings(max_examples=300)
@given(st.lists(ACTIONS, max_size=25))
@example([("send", 0, 1, WHOLE), ("hold", "network"), ("settle",), ("reset", 0), ("drain",)])
@example([("stop", 0), ("send", 0, 0, WHOLE), ("settle",), ("answer", 0, 5, WHOLE), ("up-eof", 0)])
@example([("send", 0, 6, 150), ("settle",), ("answer", 0, 0, WHOLE), ("send", 0, 0, WHOLE)])
def test_nothing_is_left_over_in_whatever_order_things_happen(
    actions: list[tuple[object, ...]],
) -> None:
    asyncio.run(play(actions))
