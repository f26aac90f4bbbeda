"""Active checks: servers that fail them get no requests, and come back when they pass."""

from __future__ import annotations

import pytest

from sidecar.proxy.checks import Check
from tests.proxy.upstreams import A, B, Upstreams, named, servers, until

CHECK = Check(b"/healthz", b"x-internal-token: inside\r\n", interval_s=5.0, timeout_s=2.0)
ASKED = (
    b"GET /healthz HTTP/1.1\r\nHost: 192.0.2.1:9001\r\nUser-Agent: sidecar\r\n"
    b"x-internal-token: inside\r\nConnection: close\r\n\r\n"
)


def with_status(status: int) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n" % status


class Checked(Upstreams):
    """Servers that are checked."""

    def __init__(self, *origins: str, check: Check = CHECK) -> None:
        super().__init__(*(each if "." in each else named(each) for each in origins), check=check)

    async def check(self, answer: bytes = with_status(200), end: str = "") -> None:
        """Let every server be checked once; A gives this *answer* and *end*, others are well."""
        before = len(self.network.upstreams)
        await self.wait(5.0)
        for far in self.network.upstreams[before:]:
            far.send(answer if far.address == A else with_status(200))
            if end and far.address == A:
                far.reset() if end == "reset" else far.send_eof()
        await self.settle()

    def in_use(self) -> list[str]:
        return [server.address for server in self.cluster._balance.in_use]  # noqa: SLF001


async def test_every_server_is_asked_on_a_connection_of_its_own() -> None:
    async with Checked(A, B) as up:
        await up.check()
        assert sorted(end.address for end in up.network.upstreams) == [A, B]
        assert up.ends(A)[0].received == ASKED
        assert all(end.end == "closed" for end in up.network.upstreams)
        assert up.counts() == (0, 0, 0, 0), "they take nobody's place"


async def test_without_a_check_nobody_is_asked() -> None:
    async with Upstreams(A) as up:
        await up.wait(60.0)
        assert up.network.addresses == []


async def test_the_third_failure_in_a_row_takes_a_server_out_and_the_second_success_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with Checked(A, B) as up:
        for status, in_use in ((503, 2), (200, 2), (503, 2), (503, 2), (503, 1)):
            await up.check(with_status(status))
            assert len(up.in_use()) == in_use
        assert servers(await up.begin(2)) == [B, B]
        for status, in_use in ((200, 1), (503, 1), (200, 1), (200, 2)):
            await up.check(with_status(status))
            assert len(up.in_use()) == in_use
        assert servers(await up.begin(2)) == [A, A]
    assert [record.getMessage() for record in caplog.records] == [
        "upstream chat: http://192.0.2.1:9001 is down: its answer is 503",
        "upstream chat: http://192.0.2.1:9001 is up again",
    ]


@pytest.mark.parametrize("status", [200, 204, 299, 301, 399])
async def test_a_2xx_or_3xx_is_a_success(status: int) -> None:
    async with Checked(A, B) as up:
        for _ in range(3):
            await up.check(with_status(status))
        assert up.in_use() == [A, B]


async def test_an_answer_that_goes_on_and_on_is_not_waited_for() -> None:
    async with Checked(A, B) as up:
        for _ in range(3):
            await up.check(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin")
        assert up.in_use() == [A, B]
        assert not any(end.is_open for end in up.network.upstreams)


@pytest.mark.parametrize(
    ("answer", "end", "why"),
    [
        pytest.param(with_status(404), "", "its answer is 404", id="4xx"),
        pytest.param(b"HTTP/1.1 500 Oh\r\n\r\n", "", "its answer is 500", id="until-close"),
        pytest.param(b"hello\r\n\r\n", "", "its answer is not valid HTTP", id="no-http"),
        pytest.param(b"", "eof", "it ended the connection without an answer", id="nothing"),
        pytest.param(b"", "reset", "it ended the connection without an answer", id="reset"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", "eof", "without an answer", id="half-a-head"),
        pytest.param(b"HTTP/1.1 103 Hints\r\n\r\n", "eof", "without an answer", id="interim"),
    ],
)
async def test_any_other_answer_is_a_failure(
    answer: bytes, end: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Checked(A, B) as up:
        for _ in range(3):
            await up.check(answer, end)
        assert up.in_use() == [B]
        assert why in caplog.text


async def test_a_connect_that_fails_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with Checked(A, B) as up:
        up.refuse(A)
        for _ in range(3):
            await up.check()
        assert up.in_use() == [B]
        assert "is down: upstream_unreachable: connection refused" in caplog.text


async def test_no_answer_in_time_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with Checked(A, check=Check(b"/", b"", interval_s=5.0, timeout_s=0.001)) as up:
        for number in range(1, 4):
            await up.wait(5.0)
            await until(lambda: len(up.ends(A)) == number and not up.ends(A)[-1].is_open)  # noqa: B023
            await up.settle()
        assert up.in_use() == []
        assert "is down: no answer in time" in caplog.text


async def test_a_check_that_takes_long_is_the_only_one_of_its_server() -> None:
    async with Checked(A, B) as up:
        gate = up.hold(A)
        for _ in range(3):
            await up.wait(5.0)
        assert [host for host, _ in up.network.addresses].count(A) == 1
        gate.set_exception(ConnectionRefusedError(111, "refused"))
        await up.settle()
        assert up.in_use() == [A, B], "it counts once"


async def test_where_all_are_down_they_are_tried_all_the_same() -> None:
    async with Checked(A, B) as up:
        up.refuse(A, B)
        for _ in range(3):
            await up.check()
        up.refuse()
        assert up.in_use() == []
        requests = await up.begin(4)
        assert sorted(servers(requests)) == [A, A, B, B]
        for request in requests:
            request.answer()
        before = len(up.network.upstreams)
        for _ in range(4):
            (request,) = await up.begin()
            request.answer()
        assert len(up.network.upstreams) == before, "and connections are kept as ever"


async def test_a_server_that_is_down_gets_no_trial() -> None:
    async with Checked(A, B) as up:
        up.refuse(A)
        await up.begin(1)
        for _ in range(3):
            await up.check()
        up.refuse()
        up.clock.advance(100.0)
        assert servers(await up.begin(3)) == [B] * 3
        for _ in range(2):
            await up.check()
        assert servers(await up.begin(1)) == [A]


async def test_the_connections_of_a_server_that_is_down_are_closed_as_they_become_idle() -> None:
    async with Checked(A, B) as up:
        requests = await up.begin(4)
        for request in requests[:2]:
            request.answer()
        for _ in range(3):
            await up.check(with_status(500))
        assert [end.end for end in up.ends(A)[:2]] == ["closed", "open"]
        assert [end.end for end in up.ends(B)[:2]] == ["open", "open"]


async def test_servers_that_come_are_checked_and_those_that_go_are_not() -> None:
    async with Checked("chat") as up:
        await up.learn(A)
        await up.learn(B)
        up.network.addresses.clear()
        await up.check()
        assert up.network.addresses == [(B, 9001)]
