"""What is done around a sidecar that is measured on a database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.postgres import PostgresServer

_MIGRATE_S = 30.0
_END_S = 5.0
_ROOT = Path(__file__).parents[1]


def migrate(text: str, directory: Path) -> None:
    """Install change notification, as an operator does, by a configuration of this *text*."""
    config = directory / "migrate.toml"
    config.write_text(text)
    done = subprocess.run(
        (sys.executable, "-m", "sidecar", "migrate", "--config", str(config)),
        capture_output=True,
        text=True,
        check=False,
        timeout=_MIGRATE_S,
    )
    if done.returncode:
        raise BenchError(f"sidecar migrate failed: {done.stderr.strip()}")


def statements(server: PostgresServer) -> int:
    """Return how many the sidecar has sent so far, by the server's own log."""
    log = (server.data / "log").read_text(errors="replace")
    return log.count("LOG:  execute ") + log.count("LOG:  statement: ")


@contextlib.contextmanager
def bound_to(core: int) -> Iterator[None]:
    """Have what is started meanwhile run on *core*."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.asynccontextmanager
async def talking_to(
    module: str, *, core: int
) -> AsyncIterator[tuple[asyncio.StreamWriter, asyncio.StreamReader]]:
    """Run a module of ours on *core*, with its input and output; it ends with its input."""
    with bound_to(core):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module), stdin=PIPE, stdout=PIPE, cwd=_ROOT
        )
    stdin, stdout = process.stdin, process.stdout
    try:
        if stdin is None or stdout is None:
            raise BenchError(f"{module}: no pipes to be had")
        yield stdin, stdout
    finally:
        if stdin is not None:
            stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
