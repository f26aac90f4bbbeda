"""A sidecar as operators run it: a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness import TIMEOUT_S, Client, Response, ask, connect, until

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

_LIMITED = 'ulimit -Sn %d && ulimit -Hn %d && exec "$@"'
_SERVES = re.compile(rb"worker \d+: process (\d+) serves")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class SidecarProcess:
    """`sidecar run`, started by `started`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.stdout = b""
        """What came so far: the access log."""
        self.stderr = b""
        self._arrived = asyncio.Event()
        self._readers = [
            asyncio.create_task(self._read_stdout()),
            asyncio.create_task(self._read_stderr()),
        ]
        self.port = 0
        self.admin_port = 0
        self.tls: ssl.SSLContext | None = None
        """What clients speak TLS with, where they do."""
        self._clients: list[Client] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        statm = Path(f"/proc/{self.pid}/statm").read_text()
        return int(statm.split()[1]) * _PAGE_BYTES

    @property
    def command_line(self) -> bytes:
        """What `ps` shows of the process."""
        return Path(f"/proc/{self.pid}/cmdline").read_bytes()

    async def connect(self) -> Client:
        """Connect; what is not closed before is closed at the end."""
        client = await connect(self.port, self.tls)
        self._clients.append(client)
        return client

    async def ask(self, request: bytes) -> Response:
        """Send one request on a connection of its own and read the response."""
        client = await connect(self.port, self.tls)
        try:
            return await client.ask(request)
        finally:
            client.close()

    async def ask_admin(self, path: str) -> Response:
        return await ask(self.admin_port, path)

    async def wait_for(self, pattern: bytes, *, stream: str = "stderr") -> bytes:
        """Wait until the output matches *pattern*, and return its first group."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                self._arrived.clear()
                found = re.search(pattern, getattr(self, stream))
                if found is not None:
                    return found[found.re.groups and 1]
                assert not all(reader.done() for reader in self._readers), self.stderr
                await self._arrived.wait()

    async def wait_for_lines(self, count: int) -> list[bytes]:
        """Wait until the access log has so many lines, and return them."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                self._arrived.clear()
                lines = self.stdout.splitlines()
                if len(lines) >= count:
                    return lines
                await self._arrived.wait()

    async def workers(self, count: int) -> list[int]:
        """Return the workers that were started so far, once there are so many."""
        await until(lambda: len(_SERVES.findall(self.stderr)) >= count)
        return [int(pid) for pid in _SERVES.findall(self.stderr)]

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*self._readers)
            return await self._process.wait()

    async def stop(self) -> int:
        """End it as operators do, and return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> None:
        """End it if it still runs, and let go of it."""
        for client in self._clients:
            client.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.wait()

    async def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        while piece := await self._process.stdout.read(65536):
            self.stdout += piece
            self._arrived.set()
        self._arrived.set()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(65536):
            self.stderr += piece
            self._arrived.set()
        self._arrived.set()


@contextlib.asynccontextmanager
async def started(
    text: str,
    directory: Path,
    *,
    environ: Mapping[str, str] | None = None,
    descriptors: tuple[int, int] | None = None,
) -> AsyncIterator[SidecarProcess]:
    """Run a sidecar with the configuration *text*, which goes to a file in *directory*.

    *descriptors* are its limits, the soft one and the hard one; without it: this process's.
    """
    config = directory / "sidecar.toml"
    config.write_text(text)
    limits = () if descriptors is None else ("/bin/sh", "-c", _LIMITED % descriptors, "sh")
    command = await asyncio.create_subprocess_exec(
        *limits,
        *(sys.executable, "-m", "sidecar", "run", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environ or {})},
    )
    process = SidecarProcess(command)
    try:
        process.admin_port = int(await process.wait_for(rb"health on \S+ port (\d+)"))
        process.port = int(await process.wait_for(rb"serving on \S+ port (\d+)"))
        yield process
    finally:
        await process.kill()
