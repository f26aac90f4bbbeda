"""Lines on their way to a descriptor: whole, in order, bounded, and never in the loop's way."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from typing import TYPE_CHECKING

import pytest

from sidecar.observe.writer import BatchWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
LINE = b"x" * 1023 + b"\n"


class Pipe:
    """A pipe whose reader reads when it is told to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._is_open = {self.reader, self.writer}

    def read_all(self, *, until: Callable[[bytes], bool]) -> bytes:
        """Read until enough has come; the suite's timeout ends a wait in vain."""
        data = b""
        while not until(data):
            data += os.read(self.reader, MIB)
        return data

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors or tuple(self._is_open):
            self._is_open.remove(descriptor)
            os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def threads() -> int:
    return sum(thread.name == "log-writer" for thread in threading.enumerate())


async def test_lines_leave_by_themselves_after_a_moment(pipe: Pipe) -> None:
    writer = BatchWriter(pipe.writer)
    writer.write(b"one\n")
    writer.write(b"two\n")
    loop = asyncio.get_running_loop()
    data = await loop.run_in_executor(
        None, lambda: pipe.read_all(until=lambda got: got.endswith(b"two\n"))
    )
    assert data == b"one\ntwo\n"
    writer.write(b"three\n")
    data = await loop.run_in_executor(
        None, lambda: pipe.read_all(until=lambda got: got.endswith(b"three\n"))
    )
    assert data == b"three\n"
    writer.close()
    assert writer.dropped == 0
    assert threads() == 0


async def test_lines_leave_at_once_when_they_are_many(pipe: Pipe) -> None:
    writer = BatchWriter(pipe.writer)
    for _ in range(64):
        writer.write(LINE)
    # No turn of the loop has passed, so no timer can have rung.
    assert pipe.read_all(until=lambda got: len(got) == 64 * 1024) == LINE * 64
    writer.close()


async def test_a_close_writes_what_is_left(pipe: Pipe) -> None:
    writer = BatchWriter(pipe.writer)
    writer.write(b"one\n")
    writer.close()
    assert os.read(pipe.reader, 100) == b"one\n"
    assert threads() == 0


async def test_what_is_written_after_a_close_is_written_by_the_next(pipe: Pipe) -> None:
    writer = BatchWriter(pipe.writer)
    writer.write(b"one\n")
    writer.close()
    writer.write(b"two\n")
    writer.close()
    assert os.read(pipe.reader, 100) == b"one\ntwo\n"


async def test_nothing_written_needs_no_thread(pipe: Pipe) -> None:
    writer = BatchWriter(pipe.writer)
    writer.flush()
    assert threads() == 0
    writer.close()


async def test_a_reader_that_stalls_costs_lines_and_not_memory(pipe: Pipe) -> None:
    """It stops the writer's thread alone: this loop goes on, and says how much was lost."""
    writer = BatchWriter(pipe.writer)
    number = 12 * 1024
    for place in range(number):
        writer.write(b"%07d" % place + LINE[7:])
    writer.flush()
    assert 3 * 1024 <= writer.dropped <= 5 * 1024, "8 MiB wait, 12 MiB were written"

    kept = number - writer.dropped
    closer = asyncio.get_running_loop().run_in_executor(None, lambda: writer.close(60))
    data = pipe.read_all(until=lambda got: len(got) == kept * 1024)
    await closer
    lines = data.splitlines(keepends=True)
    assert all(len(line) == 1024 for line in lines), "lines stay whole"
    places = [int(line[:7]) for line in lines]
    assert places == sorted(places)
    assert places[0] == 0
    assert threads() == 0


async def test_a_close_does_not_wait_for_a_stalled_reader_for_ever(pipe: Pipe) -> None:
    writer = BatchWriter(pipe.writer)
    for _ in range(1024):
        writer.write(LINE)
    writer.close(timeout_s=0.0)
    assert threads() == 1
    # The thread ends with the process, or as here when the reader goes.
    pipe.read_all(until=lambda got: len(got) == MIB)
    for thread in threading.enumerate():
        if thread.name == "log-writer":
            thread.join(10)
    assert threads() == 0


async def test_lines_stay_whole_where_the_descriptor_does_not_block(pipe: Pipe) -> None:
    """Another process may have set so what is our standard output as well as its own."""
    os.set_blocking(pipe.writer, False)
    writer = BatchWriter(pipe.writer)
    number = 1024
    for place in range(number):
        writer.write(b"%07d" % place + LINE[7:])
    closer = asyncio.get_running_loop().run_in_executor(None, lambda: writer.close(60))
    data = pipe.read_all(until=lambda got: len(got) == number * 1024)
    await closer
    assert [int(line[:7]) for line in data.splitlines()] == list(range(number))
    assert writer.dropped == 0


async def test_a_descriptor_that_fails_costs_its_lines_and_nothing_else(pipe: Pipe) -> None:
    writer = BatchWriter(pipe.writer)
    pipe.close(pipe.reader)
    for _ in range(3):
        writer.write(b"lost\n")
    writer.close()
    assert writer.dropped == 3
    assert threads() == 0


async def test_a_failure_is_forgotten_when_the_descriptor_works_again() -> None:
    pipe = Pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    descriptor = os.dup(full)
    writer = BatchWriter(descriptor)
    writer.write(b"lost\n")
    writer.close()
    os.dup2(pipe.writer, descriptor)
    writer.write(b"kept\n")
    writer.close()
    assert writer.dropped == 1
    assert os.read(pipe.reader, 100) == b"kept\n"
    pipe.close()
    os.close(full)
    os.close(descriptor)


async def test_a_line_that_a_failure_cuts_off_takes_no_other_with_it() -> None:
    """A disk that fills up takes a part of a write, and fails at the next."""
    first, second = Pipe(), Pipe()
    writer = BatchWriter(first.writer)
    number, room = 200, fcntl.fcntl(first.writer, fcntl.F_GETPIPE_SZ)
    for place in range(number):
        writer.write(b"%07d" % place + b"x" * 992 + b"\n")
    closer = asyncio.get_running_loop().run_in_executor(None, lambda: writer.close(60))
    # A byte arrives when the pipe is full, and the writer waits for more room.
    assert os.read(first.reader, 1) == b"0"
    first.close(first.reader)
    await closer
    assert room % 1000, "the last line that had room was cut off"
    assert writer.dropped == number - room // 1000
    os.dup2(second.writer, first.writer)
    writer.write(b"whole\n")
    writer.close()
    assert os.read(second.reader, 100) == b"\nwhole\n"
    first.close()
    second.close()
