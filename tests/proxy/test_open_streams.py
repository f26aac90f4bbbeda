"""An open stream ends with its credential: between two events, and nobody else's does."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.open_streams import is_event_stream
from sidecar.store.base import Account, Changes, Look
from tests.proxy.conversation import (
    ACCOUNT,
    BY_COOKIE,
    BY_KEY,
    CLIENT,
    KEY,
    KEY_RECORD,
    SESSION_RECORD,
    TOKEN,
    Conversation,
)
from tests.proxy.responses import read, read_one
from tests.proxy.test_websocket import SWITCHED
from tests.proxy.test_websocket import ask as ask_for_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.proxy.memory_transport import FarEnd

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n"
CHUNKED = STREAM % b"Transfer-Encoding: chunked\r\n"
UNTIL_CLOSE = STREAM % b"Connection: close\r\n"
EVENTS = b"id: 1\nevent: word\ndata: one\n\nid: 2\ndata: two\ndata: three\n\n: kept alive\n\n"
ENDS = [match.end() for match in re.finditer(b"\n\n", EVENTS)]
OF_THE_KEY = Changes(keys=frozenset({"key_1"}))
OF_THE_SESSION = Changes(sessions=frozenset({"session_1"}))
OF_THE_USER = Changes(users=frozenset({"user_ada"}))
EVERYTHING = Changes(everything=True)
GONE = "credential_revoked"
OUT_OF_ACME = Account("user_ada", roles={"org_globex": "member"})


class Watched(Conversation):
    """A conversation in which looks at the store come as the test says."""

    async def watch(self) -> None:
        self.authenticator.start()
        await self.settle()
        await self.tell(EVERYTHING)

    async def tell(self, changes: Changes) -> None:
        assert self.store.on_look is not None
        self.store.on_look(Look(changes, self.clock.monotonic()))
        await self.settle()

    async def open(
        self, credential: bytes = BY_KEY, answer: bytes = CHUNKED, **how: str
    ) -> tuple[FarEnd, FarEnd]:
        """Return both ends of a response that has begun."""
        path, version = how.get("path", "/v1/chat"), how.get("version", "1.1")
        client = await self.ask(
            b"GET %b HTTP/%b\r\nHost: api.test\r\nX-Request-Id: r1\r\n%b\r\n"
            % (path.encode(), version.encode(), credential)
        )
        upstream = self.upstream
        upstream.send(answer)
        await self.settle()
        return client, upstream

    async def open_websocket(self, credential: bytes = BY_KEY) -> tuple[FarEnd, FarEnd]:
        client = await self.ask(ask_for_websocket(credential))
        upstream = self.upstream
        upstream.send(SWITCHED)
        await self.settle()
        return client, upstream


@pytest.fixture
async def talk() -> AsyncIterator[Watched]:
    async with Watched() as talk:
        await talk.watch()
        yield talk


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def goes_on(end: FarEnd) -> bool:
    """Whether more may come from the near end."""
    return end.end == "open"


async def revoke(talk: Watched) -> None:
    talk.store.remove_key(KEY)
    await talk.tell(OF_THE_KEY)


class TestBetweenTwoEvents:
    async def test_it_ends_at_once_and_whole(self, talk: Watched) -> None:
        client, upstream = await talk.open()
        upstream.send(chunked(EVENTS))
        await talk.settle()
        assert goes_on(client)
        await revoke(talk)
        assert read_one(client.received).body == EVENTS
        assert not goes_on(client)
        assert not goes_on(upstream)
        [line] = talk.log
        assert (line["status"], line["reason"], line["bytes_out"]) == (200, GONE, len(EVENTS))

    async def test_before_the_first_event_too(self, talk: Watched) -> None:
        client, _ = await talk.open()
        await revoke(talk)
        assert read_one(client.received).body == b""
        assert not goes_on(client)

    @pytest.mark.parametrize("pieces", [1, 3, 1000])
    @pytest.mark.parametrize("cut", range(len(EVENTS) + 1))
    async def test_wherever_it_is_the_event_that_has_begun_comes_to_its_end(
        self, talk: Watched, cut: int, pieces: int
    ) -> None:
        client, upstream = await talk.open()
        for at in range(0, cut, pieces):
            upstream.send(chunked(EVENTS[at : min(at + pieces, cut)]))
        await talk.settle()
        await revoke(talk)
        end = next((end for end in (0, *ENDS) if end >= cut), len(EVENTS))
        assert goes_on(client) == (cut not in {0, *ENDS})
        if goes_on(client):
            for at in range(cut, len(EVENTS), pieces):
                upstream.send(chunked(EVENTS[at : at + pieces]))
            await talk.settle()
        assert read_one(client.received).body == EVENTS[:end]
        assert not goes_on(client)
        assert not goes_on(upstream)
        assert talk.reasons() == [GONE]

    async def test_wherever_the_chunks_are_cut_on_the_wire(self, talk: Watched) -> None:
        raw = b"".join(map(chunked, (EVENTS[:9], EVENTS[9:31], EVENTS[31:])))
        for at in range(len(raw)):
            talk.store.put_key(KEY, KEY_RECORD)
            talk.change_key(quota=replace(KEY_RECORD.quota, max_requests=1_000_000))
            await talk.tell(OF_THE_KEY)
            talk.clock.advance(11)
            client, upstream = await talk.open()
            upstream.send(raw[:at])
            await talk.settle()
            await revoke(talk)
            if goes_on(client):
                upstream.send(raw[at:])
                await talk.settle()
            body = read_one(client.received).body
            assert len(body) in {0, *ENDS}
            assert EVENTS.startswith(body)
            assert not goes_on(client)

    @pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
    async def test_however_lines_end(self, talk: Watched, end: bytes) -> None:
        client, upstream = await talk.open()
        upstream.send(chunked(b"data: o"))
        await talk.settle()
        await revoke(talk)
        assert goes_on(client)
        for byte in b"ne" + end + b"data: two" + end:
            upstream.send(chunked(bytes([byte])))
        await talk.settle()
        # A line that ends with CR LF has ended with its CR.
        whole = b"data: one" + end
        assert read_one(client.received).body in {whole, whole.removesuffix(b"\n")}
        assert not goes_on(client)

    async def test_an_event_that_does_not_end_is_cut_after_a_second(self, talk: Watched) -> None:
        client, upstream = await talk.open()
        upstream.send(chunked(b"data: one\n\ndata: tw"))
        await talk.settle()
        await revoke(talk)
        upstream.send(chunked(b"o and on"))
        await talk.wait(0.9)
        assert goes_on(client)
        await talk.wait(0.1)
        assert not goes_on(client)
        assert not client.received.endswith(b"\r\n0\r\n\r\n"), "it looks whole"
        assert not goes_on(upstream)
        assert talk.reasons() == [GONE]

    async def test_a_stream_that_ends_by_itself_meanwhile_has_ended(self, talk: Watched) -> None:
        client, upstream = await talk.open()
        upstream.send(chunked(b"data: o"))
        await talk.settle()
        await revoke(talk)
        upstream.send(chunked(b"ne\n\n") + b"0\r\n\r\n")
        await talk.settle()
        assert read_one(client.received).body == b"data: one\n\n"
        assert talk.reasons() == [GONE]

    async def test_one_that_ends_within_an_event_has_ended(self, talk: Watched) -> None:
        client, upstream = await talk.open()
        upstream.send(chunked(b"data: o"))
        await talk.settle()
        await revoke(talk)
        upstream.send(chunked(b"ne") + b"0\r\n\r\n")
        await talk.settle()
        assert read_one(client.received).body == b"data: one"
        assert talk.reasons() == ["ok"]

    async def test_a_client_that_does_not_read_is_not_waited_for(self, talk: Watched) -> None:
        client, upstream = await talk.open()
        client.stop_reading()
        for _ in range(64):
            upstream.send(chunked(b"data: %b\n\n" % (b"x" * 4096)))
        await talk.settle()
        await revoke(talk)
        await talk.wait(1)
        assert not goes_on(upstream)
        await talk.wait(75)
        assert not talk.plane.connections


class TestFraming:
    async def test_a_stream_until_the_close_is_chunked_and_ends_whole(self, talk: Watched) -> None:
        client, upstream = await talk.open(answer=UNTIL_CLOSE)
        upstream.send(EVENTS)
        await talk.settle()
        await revoke(talk)
        assert read_one(client.received).body == EVENTS

    async def test_a_client_of_1_0_sees_the_close(self, talk: Watched) -> None:
        client, upstream = await talk.open(answer=UNTIL_CLOSE, version="1.0")
        upstream.send(EVENTS)
        await talk.settle()
        await revoke(talk)
        assert client.received.endswith(EVENTS)
        assert not goes_on(client)

    async def test_one_whose_length_was_told_is_cut(self, talk: Watched) -> None:
        client, upstream = await talk.open(answer=STREAM % b"Content-Length: 1000\r\n")
        upstream.send(EVENTS)
        await talk.settle()
        await revoke(talk)
        assert client.received.endswith(EVENTS)
        assert not goes_on(client)
        assert not goes_on(upstream)
        assert talk.reasons() == [GONE]

    @pytest.mark.parametrize(
        ("fields", "is_stream"),
        [
            (b"Content-Type: text/event-stream", True),
            (b"content-type:text/event-stream", True),
            (b"CONTENT-TYPE: Text/Event-Stream; charset=utf-8", True),
            (b"Content-Type: text/event-stream ;a=b", True),
            (b"Content-Type: text/event-streams", False),
            (b"Content-Type: application/json", False),
            (b"X-Content-Type: text/event-stream", False),
            (b"X-Note: content-type: text/event-stream", False),
        ],
    )
    def test_what_an_event_stream_is(self, fields: bytes, is_stream: bool) -> None:
        assert is_event_stream(b"\r\nA: b\r\n%b\r\nC: d\r\n" % fields) == is_stream


def key_gone(talk: Watched) -> None:
    talk.store.remove_key(KEY)


def session_gone(talk: Watched) -> None:
    talk.store.remove_session(TOKEN)


KEY_LOST: dict[str, tuple[Callable[[Watched], None], Changes]] = {
    "deleted": (key_gone, OF_THE_KEY),
    "disabled": (lambda talk: talk.change_key(enabled=False), OF_THE_KEY),
    "expired": (lambda talk: talk.change_key(expires_at=1.0), OF_THE_KEY),
    "permission-lost": (lambda talk: talk.change_key(permissions=None), OF_THE_KEY),
    "membership-lost": (lambda talk: talk.change_key(account=OUT_OF_ACME), OF_THE_USER),
    "owner-gone": (lambda talk: talk.change_key(account=None), OF_THE_USER),
    "owner-banned": (
        lambda talk: talk.change_key(account=replace(ACCOUNT, banned=True)),
        OF_THE_USER,
    ),
    "of-another-organization": (
        lambda talk: talk.change_key(metadata={"organizationId": "org_globex"}),
        OF_THE_KEY,
    ),
}
SESSION_LOST: dict[str, tuple[Callable[[Watched], None], Changes]] = {
    "signed-out": (session_gone, OF_THE_SESSION),
    "expired": (lambda talk: talk.change_session(expires_at=1.0), OF_THE_SESSION),
    "membership-lost": (lambda talk: talk.change_session(account=OUT_OF_ACME), OF_THE_USER),
    "banned": (
        lambda talk: talk.change_session(account=replace(ACCOUNT, banned=True)),
        OF_THE_USER,
    ),
}


@pytest.mark.parametrize("named", [True, False], ids=["named", "not-named"])
@pytest.mark.parametrize("tunnel", [False, True], ids=["events", "websocket"])
class TestLost:
    @pytest.mark.parametrize("case", KEY_LOST)
    async def test_with_a_key(self, talk: Watched, case: str, tunnel: bool, named: bool) -> None:
        lose, changes = KEY_LOST[case]
        await self._check(talk, BY_KEY, lose, changes if named else EVERYTHING, tunnel)

    @pytest.mark.parametrize("case", SESSION_LOST)
    async def test_with_a_session(
        self, talk: Watched, case: str, tunnel: bool, named: bool
    ) -> None:
        lose, changes = SESSION_LOST[case]
        await self._check(talk, BY_COOKIE, lose, changes if named else EVERYTHING, tunnel)

    async def _check(
        self,
        talk: Watched,
        credential: bytes,
        lose: Callable[[Watched], None],
        changes: Changes,
        tunnel: bool,
    ) -> None:
        if tunnel:
            client, upstream = await talk.open_websocket(credential)
        else:
            client, upstream = await talk.open(
                credential, path="/reading" if credential is BY_KEY else "/v1/chat"
            )
        if changes.everything:
            await talk.wait(0.5)
        lose(talk)
        assert goes_on(client)
        await talk.tell(changes)
        if tunnel and lose is KEY_LOST["permission-lost"][0]:
            assert goes_on(client), "the route asks for none"
            return
        assert not goes_on(client)
        assert not goes_on(upstream)
        assert talk.reasons() == [GONE]


class TestNotLost:
    async def test_it_goes_on_for_as_long_as_it_likes(self, talk: Watched) -> None:
        client, upstream = await talk.open()
        for _ in range(100):
            await talk.wait(0.5)
            await talk.tell(EVERYTHING)
            upstream.send(chunked(EVENTS))
            await talk.settle()
        assert goes_on(client)
        upstream.send(b"0\r\n\r\n")
        await talk.settle()
        assert read_one(client.received).body == 100 * EVENTS
        assert talk.reasons() == ["ok"]

    async def test_it_is_read_with_what_is_in_use(self, talk: Watched) -> None:
        """An open stream is a use of its credential."""
        await talk.open()
        queries = talk.store.queries
        for _ in range(10):
            await talk.wait(0.5)
            await talk.tell(EVERYTHING)
        # And once for itself, before it is read with others.
        assert talk.store.queries <= queries + 1 + 10

    async def test_others_go_on(self, talk: Watched) -> None:
        other, _ = await talk.open(BY_COOKIE)
        client, _ = await talk.open()
        await revoke(talk)
        assert not goes_on(client)
        assert goes_on(other)

    async def test_a_store_that_is_down_ends_none(self, talk: Watched) -> None:
        client, _ = await talk.open()
        tunnel, _ = await talk.open_websocket()
        talk.store.available = False
        await talk.tell(OF_THE_KEY)
        for _ in range(400):
            await talk.wait(0.5)
        assert goes_on(client)
        assert goes_on(tunnel)
        talk.store.available = True
        talk.store.remove_key(KEY)
        await talk.tell(EVERYTHING)
        await talk.wait(0.5)
        assert not goes_on(client)
        assert not goes_on(tunnel)

    async def test_a_limit_that_is_used_up_ends_none(self, talk: Watched) -> None:
        client, _ = await talk.open()
        talk.change_key(quota=replace(KEY_RECORD.quota, remaining=0))
        await talk.tell(OF_THE_KEY)
        await talk.wait(0.5)
        assert goes_on(client)

    async def test_a_download_goes_on(self, talk: Watched) -> None:
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        client, upstream = await talk.open(answer=answer)
        upstream.send(chunked(b"half"))
        await talk.settle()
        await revoke(talk)
        await talk.wait(2)
        upstream.send(chunked(b" and half") + b"0\r\n\r\n")
        await talk.settle()
        assert read_one(client.received).body == b"half and half"

    async def test_a_public_one_goes_on(self, talk: Watched) -> None:
        client, _ = await talk.open(path="/public")
        await revoke(talk)
        await talk.wait(2)
        assert goes_on(client)

    async def test_who_has_moved_to_another_organization_keeps_what_is_open(
        self, talk: Watched
    ) -> None:
        client, _ = await talk.open(BY_COOKIE)
        talk.change_session(active_organization_id="org_globex")
        await talk.tell(OF_THE_SESSION)
        await talk.wait(0.5)
        assert goes_on(client)
        talk.change_session(active_organization_id="org_globex", account=OUT_OF_ACME)
        await talk.tell(OF_THE_USER)
        assert not goes_on(client)

    async def test_whole_responses_are_none(self, talk: Watched) -> None:
        await talk.request(
            b"GET /v1/chat HTTP/1.1\r\nHost: api.test\r\n%b\r\n" % BY_KEY,
            STREAM % b"Content-Length: 2\r\n" + b"\n\n",
        )
        assert len(talk.plane.streams) == 0


class TestTime:
    @pytest.mark.parametrize("tunnel", [False, True], ids=["events", "websocket"])
    async def test_it_ends_when_the_credential_expires(self, talk: Watched, tunnel: bool) -> None:
        talk.change_key(expires_at=talk.clock.time() + 10)
        client, _ = await (talk.open_websocket() if tunnel else talk.open())
        for _ in range(39):
            await talk.wait(0.25)
        assert goes_on(client)
        for _ in range(4):
            await talk.wait(0.25)
        assert not goes_on(client)

    async def test_without_looks_it_ends_within_fresh(self, talk: Watched) -> None:
        client, _ = await talk.open()
        talk.store.remove_key(KEY)
        assert goes_on(client)
        for _ in range(4):
            await talk.wait(0.25)
        assert not goes_on(client)


class TestNeighbours:
    async def test_their_failures_end_none_that_memory_has_let_go_of(self) -> None:
        async with Watched(failures=3) as talk:
            await talk.watch()
            client, _ = await talk.open()
            for number in range(300):
                talk.store.put_key(f"key-{number}", replace(KEY_RECORD, id=f"key-{number}"))
                (await talk.ask(_with(f"key-{number}"))).reset()
                await talk.settle()
            for number in range(3):
                await talk.ask(_with(f"bad-{number}"))
            assert talk.failures.refusal(CLIENT) is not None
            for _ in range(10):
                await talk.wait(0.25)
            assert goes_on(client)
            talk.store.remove_key(KEY)
            for _ in range(6):
                await talk.wait(0.25)
            assert not goes_on(client)
            assert GONE in talk.reasons()


def _with(key: str) -> bytes:
    return b"GET /v1/chat HTTP/1.1\r\nHost: api.test\r\nx-api-key: %b\r\n\r\n" % key.encode()


async def test_who_goes_while_it_is_looked_at_is_gone(talk: Watched) -> None:
    client, _ = await talk.open()
    talk.store.gate = asyncio.get_running_loop().create_future()
    talk.clock.advance(5)
    await talk.wait(0.25)
    client.reset()
    await talk.settle()
    talk.store.gate.set_result(None)
    await talk.settle()
    assert talk.reasons() == ["client_gone"]


async def test_the_next_request_on_a_connection_is_its_own(talk: Watched) -> None:
    client, upstream = await talk.open()
    upstream.send(chunked(EVENTS) + b"0\r\n\r\n")
    await talk.settle()
    client.send(b"GET /v1/chat HTTP/1.1\r\nHost: api.test\r\n%b\r\n" % BY_COOKIE)
    await talk.settle()
    talk.upstream.send(CHUNKED)
    await talk.settle()
    await revoke(talk)
    assert goes_on(client)
    assert len(read(client.received + b"0\r\n\r\n", "GET", "GET")) == 2
    assert SESSION_RECORD.id not in client.received.decode()
