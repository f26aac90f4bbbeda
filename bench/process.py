"""A child process on a core of its own: started, watched, measured and always ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PR_SET_PDEATHSIG = 1
_STOP_S = 5.0
_TAIL = 2000
_LIBC = ctypes.CDLL(None)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core runs the proxy, and which the upstream and the load."""

    proxy: int
    load: int

    @property
    def apart(self) -> bool:
        """Whether the two sides do not take each other's time."""
        return self.proxy != self.load


def choose_cores() -> Cores:
    """Return the last core that this process may use for the proxy and the first for the load."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(proxy=usable[-1], load=usable[0])


class Child:
    """A running program in a session of its own, so that all of its processes can be found.

    Use as a context manager: leaving it ends them all, however it is left.
    """

    def __init__(
        self,
        name: str,
        argv: list[str],
        *,
        core: int,
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = directory / f"{name.replace(' ', '-')}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Safe here: this process starts its children before it has any thread.
                preexec_fn=lambda: _settle(core),  # noqa: PLW1509
            )

    @property
    def pid(self) -> int:
        """The first process; also the session's id."""
        return self._process.pid

    def check(self) -> None:
        """Raise BenchError with the end of its log if it ended."""
        if (status := self._process.poll()) is not None:
            raise BenchError(f"{self.name} ended with status {status}{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the end of what it wrote, for an error's message; empty where it was silent."""
        tail = self._log.read_text(errors="replace")[-_TAIL:].strip()
        return f"; it wrote:\n{tail}" if tail else ""

    def cpu_s(self) -> float:
        """Return the CPU seconds that its processes have used so far, in user and kernel mode."""
        return sum(cpu_s(pid) for pid in self._pids())

    def memory_bytes(self) -> int:
        """Return its memory: resident, pages that its processes share counted once (PSS)."""
        return sum(_pss_bytes(pid) for pid in self._pids())

    def spread(self, cores: Sequence[int]) -> None:
        """Bind its processes to these cores instead, one after the other."""
        for number, pid in enumerate(sorted(self._pids())):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {cores[number % len(cores)]})

    def stop(self) -> None:
        """End every process of its session: asked first, killed after five seconds."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(_STOP_S)

    def _pids(self) -> list[int]:
        return list(session_pids(self.pid))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def _settle(core: int) -> None:
    """Bind the new process to its core and let it have as many descriptors as it may."""
    # Dies with the benchmark, even where that was killed and could not clean up.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, {core})
    raise_descriptor_limit()


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open descriptors to the hard one: a stream takes two of a proxy."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """Return how many descriptors this process, and each child, may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def session_pids(session: int) -> Iterator[int]:
    """Yield the processes of a session that live, zombies left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = stat_fields((entry / "stat").read_text())
                if int(fields[3]) == session and fields[0] != "Z":
                    yield int(entry.name)


def stat_fields(text: str) -> list[str]:
    """Return the fields of a `/proc/PID/stat` from the state (the third) on.

    The second, the program's name in parentheses, may itself hold spaces and parentheses.
    """
    return text.rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """Return one process's CPU time. Exact where the kernel keeps schedstat, else in ticks."""
    total_ns = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total_ns += int((task / "schedstat").read_text().split()[0])
        if not total_ns:
            fields = stat_fields(Path(f"/proc/{pid}/stat").read_text())
            return (int(fields[11]) + int(fields[12])) / _TICKS
    return total_ns / 1e9


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return rollup_bytes(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss")
    return 0


def rollup_bytes(text: str, field: str) -> int:
    """Return one field of a `/proc/PID/smaps_rollup`, in bytes; 0 where it is not there."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0
