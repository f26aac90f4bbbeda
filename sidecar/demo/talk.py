"""A WebSocket client for a terminal: `python -m sidecar.demo.talk -H 'x-api-key: …' URL MESSAGE…`.

It prints the first message that comes, then says each of its own and prints what comes next.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click
from aiohttp import ClientError, ClientSession, WSMsgType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import ClientWebSocketResponse

TIMEOUT_S = 10.0
"""For all of it."""


@click.command()
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'")
@click.argument("url")
@click.argument("messages", nargs=-1, metavar="MESSAGE...")
def main(headers: tuple[str, ...], url: str, messages: tuple[str, ...]) -> None:
    """Say each MESSAGE to the WebSocket at URL and print its answers."""
    try:
        asyncio.run(_talk(url, [header.partition(":")[::2] for header in headers], messages))
    except (ClientError, TimeoutError) as error:
        raise click.ClickException(str(error) or "no answer in time") from error


async def _talk(url: str, headers: Iterable[tuple[str, str]], messages: Iterable[str]) -> None:
    fields = {name: value.strip() for name, value in headers}
    async with (
        asyncio.timeout(TIMEOUT_S),
        ClientSession() as session,
        session.ws_connect(url, headers=fields) as socket,
    ):
        click.echo(await _next_text(socket))
        for message in messages:
            await socket.send_str(message)
            click.echo(await _next_text(socket))


async def _next_text(socket: ClientWebSocketResponse) -> str:
    message = await socket.receive()
    if message.type is not WSMsgType.TEXT:
        raise click.ClickException(f"not a text but {message.type.name.lower()} {message.data}")
    return str(message.data)


if __name__ == "__main__":
    main()
