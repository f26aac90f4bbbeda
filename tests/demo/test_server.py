"""What the demonstration prints is true, and it ends well."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession, WSMsgType

from sidecar.demo.chat import WORD_PAUSE_S
from tests.demo.demonstration import STAND_IN, TIMEOUT_S, demonstration, output_of, shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.demo.demonstration import Demo

pytestmark = pytest.mark.asyncio(loop_scope="module")

CURLS = pytest.mark.parametrize(
    "curl",
    [
        pytest.param(STAND_IN, id="without-curl"),
        *([pytest.param("curl", id="curl")] if shutil.which("curl") else []),
    ],
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo() -> AsyncIterator[Demo]:
    async with demonstration() as running:
        yield running


def is_an_answer(output: str, organization: str) -> None:
    assert output.endswith("}\n")
    message = json.loads(output)["message"]
    assert message["role"] == "assistant"
    assert organization in message["content"]
    assert "as owner of" in message["content"]


def is_a_list_of_sessions(output: str, organization: str) -> None:
    assert organization
    assert [session["id"] for session in json.loads(output)["sessions"]] == ["welcome"]


def is_a_page_of_history(output: str, organization: str) -> None:
    page = json.loads(output)
    assert [message["role"] for message in page["messages"][:2]] == ["user", "assistant"]
    assert organization in page["messages"][1]["content"]


def is_a_download_of_100_mb(output: str, organization: str) -> None:
    assert organization
    assert re.fullmatch(r"200: 100000000 bytes in \d+\.\d+ s\n", output)


def refuses(error: str) -> Callable[[str, str], None]:
    def is_refused(output: str, organization: str) -> None:
        head, _, body = output.replace("\r\n", "\n").partition("\n\n")
        assert head.startswith("HTTP/1.1 401 ")
        assert 'WWW-Authenticate: ApiKey realm="' in head
        assert json.loads(body)["error"] == error
        assert organization not in output

    return is_refused


def is_healthy(output: str, organization: str) -> None:
    assert organization
    assert output.endswith("\n")
    assert "503" not in output


CHECKS: dict[str, Callable[[str, str], None]] = {
    "Chat by API key, answered as JSON": is_an_answer,
    "In a session, by a signed-in user's cookie": is_an_answer,
    "The organization's chat sessions": is_a_list_of_sessions,
    "What was said, in pages": is_a_page_of_history,
    "A download of 100 MB": is_a_download_of_100_mb,
    "No credential: 401": refuses("Unauthorized"),
    "A wrong key: 401, whatever the cookie says": refuses("Invalid API key"),
    "Health, on the admin listener": is_healthy,
    "Readiness": is_healthy,
}
EVENTS = ["The same as server-sent events, one by one", "By the cookie, as events"]
LIVE = "Live, over a WebSocket"
QUESTION = "In a session, by a signed-in user's cookie"


@CURLS
@pytest.mark.parametrize("title", CHECKS)
async def test_a_line_does_what_it_says(demo: Demo, title: str, curl: str) -> None:
    organization = demo.fact("organization").split("(")[1].rstrip(")")
    if title == "What was said, in pages":
        await output_of(demo.commands[QUESTION])
    CHECKS[title](await output_of(demo.commands[title], curl), organization)


@CURLS
@pytest.mark.parametrize("title", EVENTS)
async def test_events_arrive_one_by_one(demo: Demo, title: str, curl: str) -> None:
    loop = asyncio.get_running_loop()
    arrived: list[float] = []
    events: list[dict[str, str]] = [{}]
    async with shell(demo.commands[title], curl) as process:
        assert process.stdout is not None
        async for line in process.stdout:
            name, colon, value = line.decode().rstrip("\n").partition(": ")
            if colon:
                events[-1][name] = value
            else:
                arrived.append(loop.time())
                events.append({})
    assert events.pop() == {}
    assert [event["event"] for event in events[:-1]] == ["delta"] * (len(events) - 1)
    assert events[-1]["event"] == "done"
    assert [event["id"] for event in events] == [str(n) for n in range(1, len(events) + 1)]
    words = [json.loads(event["data"])["text"] for event in events[:-1]]
    assert "".join(words) == json.loads(events[-1]["data"])["message"]["content"]
    # Made one pause after the other; in one lump they would arrive at one time.
    assert arrived[-1] - arrived[0] > (len(words) - 1) * WORD_PAUSE_S / 2


async def test_a_websocket_echoes_to_whoever_has_a_key(demo: Demo) -> None:
    hello, *echoes = (await output_of(demo.commands[LIVE])).splitlines()
    caller = json.loads(hello)
    assert caller["organization_id"] in demo.fact("organization")
    assert (caller["role"], caller["method"]) == ("owner", "api_key")
    assert echoes == ["Hello", "Still there?"]


async def test_every_line_is_run_here(demo: Demo) -> None:
    assert set(demo.commands) == {*CHECKS, *EVENTS, LIVE}


async def test_what_it_prints_first_is_what_its_lines_use(demo: Demo) -> None:
    lines = "\n".join(demo.commands.values())
    for fact in ("base URL", "API key", "cookie"):
        assert demo.fact(fact) in lines
    page = f"{demo.fact('base URL')}/demo#{demo.fact('cookie')}"
    assert demo.fact("in a browser") == page
    assert demo.lines[-1] == f"ready: {demo.fact('base URL')} (Ctrl-C ends it)"
    assert [
        role for role in ("owner", "admin", "member") if f"({role})" in demo.fact("members")
    ] == [
        "owner",
        "admin",
        "member",
    ]


async def test_an_upstream_is_not_reached_around_the_sidecar(demo: Demo) -> None:
    config = Path(demo.fact("directory").removesuffix(" (until it ends)")) / "sidecar.toml"
    urls = re.findall(r'urls = \["(.+?)"\]', config.read_text())
    assert len(urls) == 2
    for url in urls:
        line = f"curl -i -H 'x-organization-id: spoofed' {url}/v1/chat/sessions"
        assert (await output_of(line)).startswith("HTTP/1.1 403 ")


async def test_its_configuration_is_one_that_check_accepts(demo: Demo) -> None:
    config = Path(demo.fact("directory").removesuffix(" (until it ends)")) / "sidecar.toml"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "check", "--json", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    routes: list[dict[str, Any]] = json.loads(stdout)["routes"]
    assert [(route["path"], route["auth"]) for route in routes] == [
        ("/v1/chat", ["api_key", "session"]),
        ("/api/export", ["api_key"]),
        ("/demo", []),
    ]


def content(directory: Path) -> list[str]:
    return [str(path) for path in directory.iterdir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
async def test_told_to_stop_it_exits_0_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with demonstration(TMPDIR=str(tmp_path)) as demo:
        assert content(tmp_path) == [demo.fact("directory").removesuffix(" (until it ends)")]
        assert await demo.stop(number) == 0
    assert content(tmp_path) == []
    assert b"Traceback" not in demo.stderr.result()


async def test_an_answer_that_is_being_given_is_given_to_its_end() -> None:
    async with demonstration() as demo:
        async with shell(demo.commands[EVENTS[0]]) as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"id: 1\n"
            demo.process.send_signal(signal.SIGTERM)
            rest = await process.stdout.read()
        assert b"event: done\n" in rest
        assert await demo.end() == 0


async def test_a_websocket_that_is_open_is_closed_properly() -> None:
    async with demonstration() as demo:
        url, key = f"{demo.fact('base URL')}/v1/chat/live", {"x-api-key": demo.fact("API key")}
        async with ClientSession() as session, session.ws_connect(url, headers=key) as live:
            await live.receive_str()
            demo.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(TIMEOUT_S):
                assert (await live.receive()).type is WSMsgType.CLOSE
            assert live.close_code == 1001
            assert await demo.end() == 0
        assert b"Traceback" not in demo.stderr.result()


async def test_requests_are_logged_as_text_without_their_credentials() -> None:
    async with demonstration() as demo:
        await output_of(demo.commands[QUESTION])
        await output_of(demo.commands["The organization's chat sessions"])
        assert await demo.stop() == 0
    log = demo.access_log.result().decode()
    assert " 200 POST /v1/chat/sessions/welcome/messages " in log
    assert " 200 GET /v1/chat/sessions " in log
    printed = log + demo.stderr.result().decode()
    assert demo.fact("API key") not in printed
    assert demo.fact("cookie").split("=")[1].split(".")[0] not in printed


async def test_a_directory_is_kept_and_used_again(tmp_path: Path) -> None:
    directory = tmp_path / "kept"
    async with demonstration("--dir", directory) as first:
        assert first.fact("directory") == str(directory)
        assert await first.stop() == 0
    async with demonstration("--dir", directory) as second:
        assert second.fact("organization") == first.fact("organization")
        for fact in ("API key", "cookie"):
            assert second.fact(fact) != first.fact(fact)
        # What the first start printed is still good, at the second one's address.
        for title in ("The organization's chat sessions", QUESTION):
            line = first.commands[title].replace(first.fact("base URL"), second.fact("base URL"))
            assert "error" not in json.loads(await output_of(line))


async def failed(*arguments: str | Path) -> tuple[int | None, str]:
    """Return exit code and stderr of a start that fails; stdout stays empty."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "demo", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert stdout == b""
    return process.returncode, stderr.decode()


async def test_a_port_that_is_taken_exits_2_and_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, stderr = await failed("--port", str(port))
    assert code == 2
    assert f"port {port}" in stderr
    assert "Traceback" not in stderr


async def test_a_directory_of_another_kind_exits_1_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "better-auth.db").write_bytes(b"no database" * 500)
    code, stderr = await failed("--port", "0", "--dir", tmp_path)
    assert code == 1
    assert stderr.splitlines() == [
        f"{tmp_path / 'better-auth.db'} cannot be used: file is not a database"
    ]
