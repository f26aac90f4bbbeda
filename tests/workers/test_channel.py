"""What a parent and its worker say to each other arrives, or its end does."""

from __future__ import annotations

import socket

import pytest

from sidecar.workers.channel import MESSAGE_BYTES, Channel


async def pair() -> tuple[Channel, Channel, socket.socket]:
    """Return both ends of a channel, and the socket below the second."""
    ours, theirs = socket.socketpair()
    return await Channel.over(ours), await Channel.over(theirs), theirs


async def test_messages_arrive_in_order_both_ways() -> None:
    parent, worker, _ = await pair()
    for number in range(3):
        parent.send({"say": number})
        worker.send({"answer": number})
    assert [await worker.receive() for _ in range(3)] == [{"say": n} for n in range(3)]
    assert [await parent.receive() for _ in range(3)] == [{"answer": n} for n in range(3)]
    parent.close()
    worker.close()


async def test_whoever_hangs_up_is_heard() -> None:
    parent, worker, _ = await pair()
    worker.close()
    assert await parent.receive() is None
    parent.send({"say": "into the void"})
    parent.close()
    parent.send({"say": "after all"})


@pytest.mark.parametrize("torn", [b'{"say": "dr', b"x" * (MESSAGE_BYTES + 1)], ids=["end", "long"])
async def test_a_torn_message_is_the_end(torn: bytes) -> None:
    ours, theirs = socket.socketpair()
    parent = await Channel.over(ours)
    theirs.setblocking(False)
    view = memoryview(torn)
    while view:
        try:
            view = view[theirs.send(view) :]
        except BlockingIOError:
            break
    theirs.close()
    assert await parent.receive() is None
    parent.close()
