"""One of several processes that serve: `python -m sidecar.workers.worker`, started by the parent.

It serves until the parent says otherwise, or is no more.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvloop

from sidecar.app import Sidecar, StartError, settle_memory
from sidecar.observe import app_log
from sidecar.store.base import StoreError
from sidecar.workers.channel import Channel

if TYPE_CHECKING:
    from sidecar.workers.order import Order


def main() -> None:
    """Serve as standard input says."""
    order: Order = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the parent, through a pipe
    log = order.settings.log
    app_log.configure(log.level, as_text=log.format == "text")
    uvloop.run(_work(order))


async def _work(order: Order) -> None:
    # Ctrl-C reaches all processes of a terminal; the parent hears it, and says what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    drained = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drained.set)
    channel = await Channel.over(socket.socket(fileno=order.channel))
    sockets = [socket.socket(fileno=descriptor) for descriptor in order.sockets]
    try:
        sidecar = Sidecar(
            order.settings, sockets=sockets, commons=order.commons, number=order.number - 1
        )
        await sidecar.start()
    except StartError as error:
        channel.send({"failed": str(error), "is_mistake": error.is_mistake})
        channel.close()
        return
    settle_memory()
    channel.send({"started": True})
    listening = asyncio.create_task(_listen(channel, sidecar, drained), name="parent")
    await drained.wait()
    await sidecar.stop()
    listening.cancel()
    channel.close()


async def _listen(channel: Channel, sidecar: Sidecar, drained: asyncio.Event) -> None:
    """Do what the parent says, and drain once it has gone."""
    tasks: set[asyncio.Task[None]] = set()
    while (message := await channel.receive()) is not None:
        match message:
            case {"say": "drain"}:
                drained.set()
            case {"say": "cut"}:
                sidecar.stop_waiting()
            case {"ask": "store", "number": number}:
                # Not waited for here: a store that hangs holds up no other question.
                asking = asyncio.create_task(_tell_of_store(channel, sidecar, number))
                tasks.add(asking)
                asking.add_done_callback(tasks.discard)
            case {"ask": "figures", "number": number}:
                channel.send({"number": number, "figures": sidecar.snapshot()})
            case _:
                raise AssertionError(message)
    drained.set()


async def _tell_of_store(channel: Channel, sidecar: Sidecar, number: int) -> None:
    channel.send({"number": number, "trouble": await _trouble(sidecar)})


async def _trouble(sidecar: Sidecar) -> str | None:
    """Return why the store does not answer, None where it does."""
    try:
        await sidecar.ping_store()
    except StoreError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main()
