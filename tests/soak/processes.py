"""The processes of a run, and what the kernel tells of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import socket
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.soak.access_log import Log
from tests.soak.store import SECRET, Store

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MAX_CONNECTIONS = 300
"""`listen.max_connections` of the sidecar: few enough to be reached."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_START_S = 30.0
_STOP_S = 20.0
_LOOK_S = 20.0

LogKind = Literal["pipe", "file"]

_CONFIGURATION = """\
[listen]
host = "127.0.0.1"
port = 0
max_connections = {max_connections}

[listen.timeouts]
headers = "2s"
body = "2s"
idle = "4s"
drain = "5s"

[admin]
host = "127.0.0.1"
port = 0

[store]
url = "sqlite:///{database}"
timeout = "500ms"

[limits.failures]
requests = 100
window = "5s"

[session]
secrets = ["{secret}"]

[upstreams.steady]
urls = ["http://127.0.0.1:{port}"]
connect = "2s"
response = "5s"
idle = "4s"

[upstreams.unsteady]
urls = ["http://127.0.0.1:{port}"]
connect = "2s"
response = "5s"
idle = "4s"

[upstreams.garbled]
urls = ["http://127.0.0.1:{port}"]
connect = "2s"
response = "5s"
idle = "4s"

[[routes]]
path = "/steady"
upstream = "steady"

[[routes]]
path = "/unsteady"
upstream = "unsteady"

[[routes]]
path = "/garbled"
upstream = "garbled"
"""


class StageError(Exception):
    """A process did not do what the run needs of it."""


def steady_port(rng: random.Random) -> int:
    """Return a free port that no connection is given by chance while its listener is away."""
    while True:
        port = rng.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class UpstreamProcess:
    """The upstream: started again and again on one port."""

    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self.report = directory / "upstream.txt"
        self.report.touch()
        self._errors = directory / "upstream.err"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and return when it listens."""
        with self._errors.open("ab") as errors:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.soak.upstream", str(self.port), str(self.report)),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=_environment(),
            )
        assert process.stdout is not None
        async with asyncio.timeout(_START_S):
            if await process.stdout.readline() != b"ready\n":
                raise StageError(f"the upstream did not start: {self._errors.read_text()}")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def wrongs(self) -> list[str]:
        """What came to it and should not have, and what it failed at."""
        errors = self._errors.read_text() if self._errors.exists() else ""
        return [*self.report.read_text().splitlines(), *errors.splitlines()[-20:]]


@dataclass(frozen=True)
class Look:
    """What a process holds at one time."""

    rss_bytes: int
    descriptors: Counter[str]
    """By kind: socket, file, …"""
    tasks: Counter[str]
    objects: Counter[str]
    cycles: int
    """Objects that the collector had to find."""

    @property
    def connections(self) -> int:
        """Sockets that are open, listeners among them."""
        return self.descriptors["socket"]


class SidecarProcess:
    """`sidecar run` with a way to look inside; its log goes to a pipe or to a file."""

    def __init__(self, directory: Path, store: Store, upstream_port: int, log: LogKind) -> None:
        self._directory = directory
        self._config = directory / "sidecar.toml"
        self._config.write_text(
            _CONFIGURATION.format(
                max_connections=MAX_CONNECTIONS,
                database=store.path,
                secret=SECRET,
                port=upstream_port,
            )
        )
        self.log_kind = log
        self.log = Log()
        self.log_path = directory / "access.log"
        self._seen = directory / "seen.json"
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self.errors: list[str] = []
        """What it said on stderr."""
        self.may_read_log = asyncio.Event()
        self.may_read_log.set()
        self.port = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, and return when it serves."""
        with contextlib.ExitStack() as stack:
            stdout: int = asyncio.subprocess.PIPE
            if self.log_kind == "file":
                stdout = stack.enter_context(self.log_path.open("ab")).fileno()
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.soak.inspected", str(self._seen)),
                *("run", "--config", str(self._config)),
                cwd=ROOT,
                stdout=stdout,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(),
            )
        serves = asyncio.get_running_loop().create_future()
        self._readers = [asyncio.create_task(self._read_errors(serves))]
        if self.log_kind == "pipe":
            self._readers.append(asyncio.create_task(self._read_log()))
        done, _ = await asyncio.wait(
            [serves, self._readers[0]], timeout=_START_S, return_when=asyncio.FIRST_COMPLETED
        )
        if serves not in done:
            raise StageError(f"the sidecar did not start: {self.errors}")
        self.port = serves.result()
        assert process.returncode is None

    async def stop(self) -> int:
        """End it as operators do; returns its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_STOP_S):
            status = await self._process.wait()
            await asyncio.gather(*self._readers)
        if self.log_kind == "file":
            for line in self.log_path.read_bytes().splitlines():
                self.log.take(line)
        return status

    async def kill(self) -> None:
        """End it, if it still runs."""
        self.may_read_log.set()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def look(self) -> Look:
        """Return what it holds now."""
        self._seen.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        async with asyncio.timeout(_LOOK_S):
            while not self._seen.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.02)
        seen = json.loads(self._seen.read_text())
        return Look(
            rss_bytes=self.rss_bytes(),
            descriptors=self.descriptors(),
            tasks=Counter(seen["tasks"]),
            objects=Counter(seen["objects"]),
            cycles=seen["cycles"],
        )

    def rss_bytes(self) -> int:
        """Its memory that is in RAM."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def descriptors(self) -> Counter[str]:
        """Its open descriptors by kind."""
        kinds: Counter[str] = Counter()
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                kinds[_kind_of(str(link.readlink()))] += 1
        return kinds

    @contextlib.contextmanager
    def limited(self, which: int, soft: int) -> Iterator[None]:
        """Bound one of its resources for a while."""
        before = resource.prlimit(self.pid, which)
        resource.prlimit(self.pid, which, (soft, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.pid, which, before)

    async def _read_errors(self, serves: asyncio.Future[int]) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while line := (await self._process.stderr.readline()).decode(errors="replace"):
            found = re.search(r"serving on \S+ port (\d+)", line)
            if found is not None and not serves.done():
                serves.set_result(int(found[1]))
            self.errors.append(line.rstrip())

    async def _read_log(self) -> None:
        assert self._process is not None
        stdout = self._process.stdout
        assert stdout is not None
        while line := await stdout.readline():
            self.log.take(line)
            await self.may_read_log.wait()


def _kind_of(target: str) -> str:
    kind, colon, _ = target.partition(":")
    return kind if colon else "file"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
