"""The demonstration as a whole: both upstreams and a sidecar in front, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from sidecar.clock import SystemClock
from sidecar.demo.accounts import provide_accounts
from sidecar.demo.chat import create_chat
from sidecar.demo.conversations import Conversations
from sidecar.demo.export import create_export
from sidecar.demo.tour import Tour
from sidecar.demo.workspace import HOST, Workspace
from sidecar.settings import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.settings import Settings

WELCOME = "welcome"
"""The chat session that is there from the start."""


class Gateway(Protocol):
    """The sidecar that the demonstration stands behind."""

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect, once it is started."""
        ...

    @property
    def admin_address(self) -> tuple[str, int]:
        """Where health is asked for, once it is started."""
        ...

    async def start(self) -> None:
        """Listen; nothing is left behind if it fails."""
        ...

    async def stop(self) -> None:
        """Answer what is in flight, then end."""
        ...


async def run(
    directory: Path | None,
    port: int,
    build: Callable[[Settings], Gateway],
    show: Callable[[str], object],
) -> None:
    """Serve until SIGINT or SIGTERM comes; what `show` is given is for stdout.

    Without *directory* there is a temporary one, which goes at the end. Raises DirectoryUnusable,
    SettingsError (a directory whose name no setting can hold), and what the gateway raises.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        if directory is None:
            path = stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-demo-"))
            workspace = await asyncio.to_thread(Workspace, Path(path))
        else:
            workspace = await asyncio.to_thread(Workspace, directory)
        show(str(await _start(stack, workspace, port, build, directory is not None)))
        await stopped.wait()


async def _start(
    stack: AsyncExitStack,
    workspace: Workspace,
    port: int,
    build: Callable[[Settings], Gateway],
    directory_stays: bool,
) -> Tour:
    """Start upstreams and gateway, to be stopped by *stack* in the opposite order."""
    accounts = await asyncio.to_thread(
        provide_accounts, workspace.database, workspace.secret, datetime.now(UTC)
    )
    conversations = Conversations(SystemClock())
    conversations.begin(accounts.organization_id, "Welcome", None, WELCOME)
    chat = create_chat(workspace.internal_token, conversations)
    upstreams = {
        "chat": await _serve(stack, chat),
        "export": await _serve(stack, create_export(workspace.internal_token)),
    }
    config = await asyncio.to_thread(workspace.write_config, port, upstreams)
    gateway = build(await asyncio.to_thread(load, config))
    await gateway.start()
    stack.push_async_callback(gateway.stop)
    # The gateway waits for what is in flight, and a WebSocket is that until somebody closes it.
    stack.push_async_callback(chat.shutdown)
    return Tour(
        base_url=_url(gateway.address),
        admin_url=_url(gateway.admin_address),
        accounts=accounts,
        session_id=WELCOME,
        directory=workspace.path,
        directory_stays=directory_stays,
    )


async def _serve(stack: AsyncExitStack, app: web.Application) -> str:
    """Serve *app* on any free port of this machine, for this machine alone; return its URL."""
    # An answer that nobody waits for any more ends at once.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, HOST, 0).start()
    return _url(runner.addresses[0])


def _url(address: tuple[str, int]) -> str:
    return f"http://{address[0]}:{address[1]}"
