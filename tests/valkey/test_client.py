"""Commands on a real server: as it comes, down, paused, away for a while, and guarded."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import traceback
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from sidecar.settings import ValkeyURL
from sidecar.valkey.client import Client
from sidecar.valkey.errors import DriverMissing, Redirected, Rejected, ValkeyUnavailable
from sidecar.valkey.making import make_client
from tests.certificates import Authority
from tests.relay import Relay
from tests.valkey_server import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SHORT_S = 0.3
"""The timeout of clients that are going to run into it."""
PASSWORD = "canary7Zq"


@asynccontextmanager
async def opened(
    url: ValkeyURL, timeout_s: float = 10, connections: int = 4
) -> AsyncIterator[Client]:
    client = Client(url, timeout_s=timeout_s, connections=connections)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def url(valkey_server: ValkeyServer) -> ValkeyURL:
    return valkey_server.url


@pytest.fixture(scope="module")
def guarded() -> Iterator[ValkeyServer]:
    """Run a server that asks who comes; `reader` may do two things there."""
    server = ValkeyServer("--requirepass", PASSWORD, password=PASSWORD)
    server.call("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+mget", "+ping")
    yield server
    server.close()


class TestCommands:
    async def test_replies_come_as_they_are(self, url: ValkeyURL) -> None:
        async with opened(url) as client:
            assert await client.call("SET", "a", b"\xff\0") == b"OK"
            assert await client.call("INCRBY", "n", 7) == 7
            assert await client.call("MGET", "a", "n", "none") == [b"\xff\0", b"7", None]
            assert await client.call("PING") == b"PONG"

    async def test_a_unix_socket_will_do(self, valkey_server: ValkeyServer) -> None:
        async with opened(ValkeyURL(socket_path=valkey_server.socket_path)) as client:
            assert await client.call("PING") == b"PONG"

    async def test_each_database_is_its_own(self, url: ValkeyURL) -> None:
        async with opened(url) as first, opened(replace(url, database=3)) as other:
            await first.call("SET", "a", "1")
            assert await other.call("GET", "a") is None

    async def test_connections_are_kept_and_bounded(
        self, url: ValkeyURL, valkey_server: ValkeyServer
    ) -> None:
        before = valkey_server.call("INFO", "stats")
        async with opened(url, connections=2) as client:
            replies = await asyncio.gather(*(client.call("ECHO", n) for n in range(50)))
        after = valkey_server.call("INFO", "stats")

        assert replies == [b"%d" % n for n in range(50)]
        assert _connections(after) - _connections(before) == 2

    async def test_an_error_of_the_servers_is_told_by_its_code_and_costs_no_connection(
        self, url: ValkeyURL, valkey_server: ValkeyServer
    ) -> None:
        before = valkey_server.call("INFO", "stats")
        async with opened(url) as client:
            for command, code in (
                (("EVALSHA", "0" * 40, 0), "NOSCRIPT"),
                (("NONSENSE", PASSWORD), "ERR"),
                (("LPOP", "text"), "WRONGTYPE"),
            ):
                await client.call("SET", "text", "a")
                with pytest.raises(Rejected, match=code) as caught:
                    await client.call(*command)
                assert caught.value.code == code
                assert PASSWORD not in "".join(traceback.format_exception(caught.value))
        assert _connections(valkey_server.call("INFO", "stats")) - _connections(before) == 1

    async def test_commands_in_one_write_have_a_reply_each(
        self, url: ValkeyURL, valkey_server: ValkeyServer
    ) -> None:
        async with opened(url) as client:
            first, second, third = await client.call_all(
                [("SET", "a", "1"), ("LPOP", "a"), ("GET", "a")]
            )
            assert (first, third) == (b"OK", b"1")
            assert isinstance(second, Rejected)
            assert second.code == "WRONGTYPE"

    async def test_a_server_lists_whose_connections_they_are(
        self, url: ValkeyURL, valkey_server: ValkeyServer
    ) -> None:
        async with opened(url) as client:
            await client.call("PING")
            assert b" name=sidecar " in valkey_server.call("CLIENT", "LIST")

    async def test_an_idle_connection_is_kept_alive(self, url: ValkeyURL) -> None:
        async with opened(url) as client:
            await client.call("PING")
            (connection,) = client._idle  # noqa: SLF001
            writer = connection._writer  # noqa: SLF001
            assert writer is not None
            its: socket.socket = writer.get_extra_info("socket")
            assert its.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert its.getsockopt(socket.SOL_TCP, socket.TCP_KEEPIDLE) == 15

    @pytest.mark.parametrize(
        ("text", "code", "host", "port"),
        [
            pytest.param("MOVED 7 10.0.0.1:6381", "MOVED", "10.0.0.1", 6381, id="moved"),
            pytest.param("ASK 7 ::1:6381", "ASK", "::1", 6381, id="ask-ipv6"),
            pytest.param("MOVED 7 :6381", "MOVED", "", 6381, id="same-host"),
            pytest.param("MOVED 7 ?:6381", "MOVED", "", 6381, id="no-name"),
        ],
    )
    async def test_where_else_to_ask_is_told(
        self, url: ValkeyURL, text: str, code: str, host: str, port: int
    ) -> None:
        async with opened(url) as client:
            script = f"return redis.error_reply({text!r})"
            (reply,) = await client.call_all([("EVAL", script, 0)])
        assert isinstance(reply, Redirected)
        assert (reply.code, reply.slot, reply.host, reply.port) == (code, 7, host, port)


def _connections(stats: bytes) -> int:
    (line,) = (line for line in stats.split() if line.startswith(b"total_connections_received:"))
    return int(line.partition(b":")[2])


class TestFaults:
    async def test_where_nothing_listens_that_is_said(self, own_valkey: ValkeyServer) -> None:
        own_valkey.stop()
        async with opened(own_valkey.url) as client:
            with pytest.raises(ValkeyUnavailable, match=r"valkey://127.*: nothing listens there"):
                await client.call("PING")

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            pytest.param(ValkeyURL(host="nowhere.invalid"), "host's name is not known", id="name"),
            pytest.param(
                ValkeyURL(socket_path=Path("/nowhere/valkey.sock")), "no such socket", id="socket"
            ),
        ],
    )
    async def test_a_place_that_is_not_there_is_said(self, url: ValkeyURL, why: str) -> None:
        async with opened(url) as client:
            with pytest.raises(ValkeyUnavailable, match=why):
                await client.call("PING")

    async def test_a_server_that_was_away_is_met_again(self, own_valkey: ValkeyServer) -> None:
        async with opened(own_valkey.url) as client:
            assert await client.call("PING") == b"PONG"
            own_valkey.stop()
            with pytest.raises(ValkeyUnavailable):
                await client.call("PING")
            own_valkey.start()
            assert await client.call("PING") == b"PONG"

    async def test_a_restart_between_two_commands_is_not_noticed(
        self, own_valkey: ValkeyServer
    ) -> None:
        async with opened(own_valkey.url) as client:
            await asyncio.gather(*(client.call("PING") for _ in range(4)))
            own_valkey.stop()
            own_valkey.start()
            replies = await asyncio.gather(*(client.call("PING") for _ in range(8)))
            assert replies == [b"PONG"] * 8

    async def test_a_server_that_says_nothing_is_given_up_in_time(
        self, own_valkey: ValkeyServer
    ) -> None:
        async with opened(own_valkey.url, timeout_s=SHORT_S, connections=2) as client:
            assert await client.call("PING") == b"PONG"
            own_valkey.pause()
            calls = (client.call("PING") for _ in range(6))
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert {str(error) for error in errors} == {
                f"{own_valkey.url}: no answer within {SHORT_S} s"
            }
            own_valkey.resume()
        async with opened(own_valkey.url) as patient:
            assert await patient.call("PING") == b"PONG"

    async def test_a_connection_of_a_call_that_was_cancelled_serves_nobody_else(
        self, own_valkey: ValkeyServer
    ) -> None:
        """Its reply is still to come, and would be taken for the next one's."""
        async with opened(own_valkey.url, connections=1) as client:
            await client.call("PING")
            own_valkey.pause()
            task = asyncio.create_task(client.call("ECHO", "old"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            own_valkey.resume()
            assert await client.call("ECHO", "new") == b"new"

    async def test_a_connection_that_breaks_off_is_said(self) -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        async with server, opened(ValkeyURL(host="127.0.0.1", port=port)) as client:
            with pytest.raises(ValkeyUnavailable, match="the connection broke"):
                await client.call("PING")

    async def test_a_server_of_something_else_is_said(self) -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        async with server, opened(ValkeyURL(host="127.0.0.1", port=port)) as client:
            with pytest.raises(ValkeyUnavailable, match="what answers is no Valkey server"):
                await client.call("PING")

    async def test_so_is_one_that_becomes_something_else(self, valkey_server: ValkeyServer) -> None:
        async with (
            Relay(valkey_server.port) as relay,
            opened(valkey_server.url_at(relay.port)) as client,
        ):
            await client.call("PING")
            relay.distort = lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"
            with pytest.raises(ValkeyUnavailable, match="what answers is no Valkey server"):
                await client.call("PING")

    async def test_of_connections_that_lead_nowhere_one_is_waited_for(
        self, valkey_server: ValkeyServer
    ) -> None:
        async with (
            Relay(valkey_server.port) as relay,
            opened(valkey_server.url_at(relay.port), timeout_s=SHORT_S) as client,
        ):
            await asyncio.gather(*(client.call("PING") for _ in range(4)))
            relay.lose()
            with pytest.raises(ValkeyUnavailable, match="no answer within"):
                await client.call("PING")
            assert await client.call("PING") == b"PONG"

    async def test_a_replica_is_left_for_what_takes_over(
        self, own_valkey: ValkeyServer, valkey_server: ValkeyServer
    ) -> None:
        """The connections to it stay open, and lead to it for as long as they do."""
        async with (
            Relay(own_valkey.port) as relay,
            opened(own_valkey.url_at(relay.port)) as client,
        ):
            await asyncio.gather(*(client.call("SET", "a", 1) for _ in range(4)))
            own_valkey.call("REPLICAOF", "127.0.0.1", str(valkey_server.port))
            relay.target = valkey_server.port
            with pytest.raises(Rejected, match="replica") as caught:
                await client.call("SET", "a", 1)
            assert caught.value.code in {"READONLY", "MASTERDOWN"}
            assert await client.call("SET", "a", 1) == b"OK"

    async def test_a_client_that_is_closed_asks_nothing_until_it_is_opened_again(
        self, url: ValkeyURL
    ) -> None:
        async with opened(url) as client:
            await client.call("PING")
        await client.close()
        with pytest.raises(ValkeyUnavailable, match="not open"):
            await client.call("PING")
        client.open()
        assert await client.call("PING") == b"PONG"
        await client.close()


class TestRights:
    @pytest.mark.parametrize("password", [None, "canary8Xy"])
    async def test_a_password_that_is_wrong_is_said_and_not_shown(
        self, guarded: ValkeyServer, password: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        secret = None if password is None else SecretStr(password)
        async with opened(replace(guarded.url, password=secret)) as client:
            with pytest.raises(ValkeyUnavailable, match="refuses the password, or dem") as caught:
                await client.call("GET", "a")
        said = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert password is None or password not in said

    async def test_all_of_it_is_said_of_a_unix_socket_as_well(self, guarded: ValkeyServer) -> None:
        url = ValkeyURL(socket_path=guarded.socket_path)
        right = replace(url, password=SecretStr(PASSWORD))
        async with opened(right) as client:
            assert await client.call("PING") == b"PONG"
        for wrong, why in (
            (url, "refuses the password"),
            (replace(right, database=999), "no database 999"),
        ):
            async with opened(wrong) as client:
                with pytest.raises(ValkeyUnavailable, match=why):
                    await client.call("PING")

    async def test_the_right_password_opens(self, guarded: ValkeyServer) -> None:
        url = replace(guarded.url, password=SecretStr(PASSWORD))
        async with opened(url) as client:
            assert await client.call("PING") == b"PONG"
            assert PASSWORD not in f"{url} {url!r} {client!r}"

    async def test_a_user_needs_no_rights_but_those_of_the_commands(
        self, guarded: ValkeyServer
    ) -> None:
        url = replace(guarded.url, user="reader", password=SecretStr("secret"))
        async with opened(url) as client:
            assert await client.call("MGET", "a") == [None]
            with pytest.raises(Rejected, match="does not let user reader do this") as caught:
                await client.call("SET", "a", 1)
            assert caught.value.code == "NOPERM"

    async def test_a_database_that_is_not_there_is_said(self, url: ValkeyURL) -> None:
        async with opened(replace(url, database=999)) as client:
            with pytest.raises(ValkeyUnavailable, match="there is no database 999"):
                await client.call("PING")


async def test_where_one_connection_leads_nowhere_the_others_are_made_anew(
    valkey_server: ValkeyServer,
) -> None:
    async with (
        Relay(valkey_server.port) as relay,
        opened(replace(valkey_server.url, port=relay.port), SHORT_S) as client,
    ):
        await asyncio.gather(*(client.call("BLPOP", "nothing", "0.05") for _ in range(3)))
        assert relay.accepted == 3
        relay.lose()
        with pytest.raises(ValkeyUnavailable, match="no answer within"):
            await client.call("PING")
        assert await client.call("PING") == b"PONG"


class TestTLS:
    """The server of the tests speaks none, so a relay speaks it for the server."""

    @pytest.fixture
    def authority(self) -> Authority:
        return Authority()

    @pytest.fixture
    def ca_file(self, authority: Authority, tmp_path: Path) -> Path:
        return authority.write_root(tmp_path / "ca.pem")

    async def test_a_server_that_is_vouched_for_is_believed(
        self, authority: Authority, ca_file: Path, valkey_server: ValkeyServer
    ) -> None:
        context = authority.server_context("127.0.0.1")
        async with Relay(valkey_server.port, context, at_once=True) as relay:
            url = ValkeyURL(host="127.0.0.1", port=relay.port, tls=True, ca_file=ca_file)
            async with opened(url) as client:
                assert await client.call("PING") == b"PONG"

    async def test_a_client_shows_its_own_certificate(
        self, authority: Authority, ca_file: Path, valkey_server: ValkeyServer, tmp_path: Path
    ) -> None:
        context = authority.server_context("127.0.0.1", asks=authority)
        certificate, key = authority.issue(tmp_path, name="client")
        async with Relay(valkey_server.port, context, at_once=True) as relay:
            url = ValkeyURL(host="127.0.0.1", port=relay.port, tls=True, ca_file=ca_file)
            async with opened(replace(url, cert_file=certificate, key_file=key)) as client:
                assert await client.call("PING") == b"PONG"
            async with opened(url) as client:
                with pytest.raises(ValkeyUnavailable):
                    await client.call("PING")

    @pytest.mark.parametrize(
        ("name", "trusted"),
        [
            pytest.param("127.0.0.1", False, id="another-authority"),
            pytest.param("other.example", True, id="another-name"),
        ],
    )
    async def test_a_server_that_is_not_who_it_should_be_is_told_no_password(
        self,
        authority: Authority,
        ca_file: Path,
        valkey_server: ValkeyServer,
        name: str,
        trusted: bool,
    ) -> None:
        context = (authority if trusted else Authority()).server_context(name)
        async with Relay(valkey_server.port, context, at_once=True) as relay:
            url = ValkeyURL(host="127.0.0.1", port=relay.port, tls=True, ca_file=ca_file)
            async with opened(url) as client:
                with pytest.raises(ValkeyUnavailable, match="its certificate is not trusted"):
                    await client.call("PING")

    async def test_files_that_went_away_are_said(self, url: ValkeyURL, tmp_path: Path) -> None:
        url = replace(url, tls=True, ca_file=tmp_path / "gone.pem")
        async with opened(url) as client:
            with pytest.raises(ValkeyUnavailable, match="ca_file: cannot be read: no such file"):
                await client.call("PING")


async def test_a_client_comes_where_its_library_is_installed(url: ValkeyURL) -> None:
    client = make_client(url, timeout_s=10)
    assert await client.call("PING") == b"PONG"
    await client.close()


@pytest.mark.parametrize(
    ("missing", "error"), [("valkey", DriverMissing), ("something", ModuleNotFoundError)]
)
def test_a_library_that_is_missing_is_said_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, missing: str, error: type[Exception]
) -> None:
    class Without:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "sidecar.valkey.client":
                raise ModuleNotFoundError(name=missing)

    monkeypatch.delitem(sys.modules, "sidecar.valkey.client")
    monkeypatch.setattr(sys, "meta_path", [Without(), *sys.meta_path])
    with pytest.raises(error) as caught:
        make_client(ValkeyURL(host="h"), timeout_s=1)
    if missing == "valkey":
        assert 'install Sidecar with its extra, "sidecar[valkey]"' in str(caught.value)
