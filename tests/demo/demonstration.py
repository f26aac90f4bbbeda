"""The demonstration as a user meets it: started as a command, its lines run by a shell."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT_S = 30.0
"""How long what must come may take on a busy machine; never waited out."""

STAND_IN = shlex.join([sys.executable, str(Path(__file__).with_name("curl.py"))])


@dataclass
class Demo:
    """A demonstration that is ready."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(repr=False)  # they hold a key and a cookie
    """What it printed to stdout until it was ready."""
    access_log: asyncio.Task[bytes]
    """What it prints to stdout from then on; there once it has ended."""
    stderr: asyncio.Task[bytes]

    def fact(self, name: str) -> str:
        """Return what the first lines say of *name*."""
        (line,) = (line for line in self.lines if line.startswith(f"{name}  "))
        return line.removeprefix(name).strip()

    @property
    def commands(self) -> dict[str, str]:
        """The lines to paste, by the comment above each."""
        return {
            title.removeprefix("# "): line
            for title, line in zip(self.lines, self.lines[1:], strict=False)
            if title.startswith("# ")
        }

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(number)
        return await self.end()

    async def end(self) -> int:
        """Wait until it has ended and return the exit code."""
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(self.access_log, self.stderr)
            return await self.process.wait()


@asynccontextmanager
async def demonstration(*arguments: str | Path, **environment: str) -> AsyncIterator[Demo]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sidecar", "demo", "--port", "0"),
        *map(str, arguments),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    stderr = asyncio.create_task(process.stderr.read())
    try:
        lines: list[str] = []
        async with asyncio.timeout(TIMEOUT_S):
            while not (lines and lines[-1].startswith("ready: ")):
                line = await process.stdout.readline()
                assert line, f"ended before it was ready: {await stderr!r}"
                lines.append(line.decode().rstrip("\n"))
        access_log = asyncio.create_task(process.stdout.read())
        try:
            yield Demo(process, lines, access_log, stderr)
        finally:
            if process.returncode is None:
                process.kill()
            await access_log
    finally:
        if process.returncode is None:
            process.kill()
        await stderr
        await process.wait()


@asynccontextmanager
async def shell(line: str, curl: str = STAND_IN) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a line as it was printed, with *curl* for curl."""
    if curl != "curl" and line.startswith("curl "):
        line = f"{curl} {line.removeprefix('curl ')}"
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", line), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def output_of(line: str, curl: str = STAND_IN) -> str:
    async with shell(line, curl) as process:
        stdout, _ = await process.communicate()
    assert process.returncode == 0
    return stdout.decode()
