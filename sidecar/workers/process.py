"""One worker, as its parent sees it."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from sidecar.app import StartError
from sidecar.workers.channel import Channel
from sidecar.workers.order import Order
from sidecar.workers.relay import relay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.limits.commons import Commons
    from sidecar.settings import Settings
    from sidecar.workers.channel import Message

_START_S = 60.0
"""How long a worker may take until it serves."""


class WorkerProcess:
    """A process that serves, made by `start`; `ended` tells when it is no more."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.number = number
        self._process = process
        self._channel = channel
        self._tasks: list[asyncio.Task[None]] = []
        self._questions = count()
        self._answers: dict[int, asyncio.Future[Message]] = {}

    @classmethod
    async def start(
        cls,
        number: int,
        settings: Settings,
        sockets: Sequence[socket.socket],
        commons: Commons | None,
        *,
        write_line: Callable[[bytes], None],
        write_error: Callable[[bytes], None],
    ) -> WorkerProcess:
        """Start worker *number*, whose output goes by lines to where they are written.

        *commons* is memory that it shares with the others. Returns once it serves. Raises
        StartError.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            bound = tuple(each.fileno() for each in sockets)
            order = Order(number, settings, bound, theirs.fileno(), commons)
            shared = () if commons is None else commons.descriptors
            try:
                process = await _spawn((*bound, order.channel, *shared))
            except OSError as error:
                ours.close()
                raise StartError(f"worker {number}: {error.strerror}") from error
        worker = cls(number, process, await Channel.over(ours))
        assert process.stdout is not None  # noqa: S101 - pipes, as asked for
        assert process.stderr is not None  # noqa: S101
        worker._tasks = [
            asyncio.create_task(relay(process.stdout, write_line, keeps_torn=False)),
            asyncio.create_task(relay(process.stderr, write_error, keeps_torn=True)),
        ]
        try:
            async with asyncio.timeout(_START_S):
                await worker._begin(order)
        except BaseException as error:
            worker.kill()
            await worker.ended()
            if isinstance(error, TimeoutError):
                raise StartError(f"worker {number} took longer than {_START_S:g} s") from error
            raise
        worker._tasks.append(asyncio.create_task(worker._listen()))
        return worker

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    async def _begin(self, order: Order) -> None:
        """Hand over the order and wait until it is served."""
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 - as asked for
        with suppress(ConnectionError):
            pipe.write(pickle.dumps(order))
            await pipe.drain()
        pipe.close()
        message = await self._channel.receive()
        if message is None:
            await self.ended()
            raise StartError(f"worker {self.number} {self.end()}")
        if "failed" in message:
            raise StartError(message["failed"], is_mistake=message["is_mistake"])

    async def ask(self, question: str, timeout_s: float) -> Message | None:
        """Return the worker's answer, None where there is none within *timeout_s*."""
        number = next(self._questions)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._channel.send({"ask": question, "number": number})
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._answers[number]

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            waiting = self._answers.get(message["number"])
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

    def drain(self) -> None:
        """Have it accept no more, answer what is in flight, and end."""
        self._channel.send({"say": "drain"})

    def cut(self) -> None:
        """Have it end at once what outlasts the drain."""
        self._channel.send({"say": "cut"})

    def kill(self) -> None:
        """End it without its doing."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        """Return when it has ended and all that it said was passed on."""
        await self._process.wait()
        await asyncio.gather(*self._tasks)
        self._channel.close()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    def end(self) -> str:
        """Return how it ended, in words."""
        code = self._process.returncode
        assert code is not None  # noqa: S101 - asked for once it has
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


async def _spawn(descriptors: Sequence[int]) -> asyncio.subprocess.Process:
    # The same code as here, wherever it was found; and nothing of the working directory's.
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "sidecar.workers.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=descriptors,
        env=environ,
    )
