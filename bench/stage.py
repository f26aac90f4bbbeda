"""What a measurement stands on: both upstreams, and one proxy at a time before them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.checks import check_proxy, wait_until_serving
from bench.load.requests import Target
from bench.peers.base import Launch, Ports, Wiring, identity_headers
from bench.ports import HOST, free_ports
from bench.process import Child
from bench.upstream.static import ITEM_PATH, upstream
from bench.upstream.streaming import DOWNLOAD_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.credentials import Credentials
    from bench.peers.base import Peer
    from bench.process import Cores

ROOT = Path(__file__).parents[1]


def _ports() -> Ports:
    return Ports(*free_ports(4))


@dataclass(frozen=True, slots=True)
class Stage:
    """One run's programs and ports; files go below *directory*."""

    cores: Cores
    credentials: Credentials
    directory: Path
    ports: Ports = field(default_factory=_ports)

    @contextlib.contextmanager
    def upstreams(self) -> Iterator[None]:
        """Run both upstreams."""
        directory = self._directory("upstream")
        static = upstream(directory, self.ports.static)
        argv = [sys.executable, "-m", "bench.upstream.streaming", str(self.ports.stream)]
        with (
            self._child("static", static, self.cores.load, directory) as static_child,
            self._child("streaming", Launch(argv), self.cores.load, directory) as streaming_child,
        ):
            headers = identity_headers(self.credentials)
            wait_until_serving(static_child, self.ports.static, ITEM_PATH, headers)
            one_byte = f"{DOWNLOAD_PATH}?bytes=1"
            wait_until_serving(streaming_child, self.ports.stream, one_byte, headers)
            yield

    @contextlib.contextmanager
    def proxy(self, peer: Peer) -> Iterator[Child]:
        """Run a proxy that passed its checks, before upstreams that run already."""
        directory = self._directory("proxy")
        launch = peer.prepare(directory, Wiring(self.ports, self.credentials))
        with self._child(peer.name, launch, self.cores.proxy, directory) as child:
            wait_until_serving(child, self.ports.listen, ITEM_PATH, self._key())
            check_proxy(peer.name, self.ports.listen, self.credentials)
            yield child
            child.check()
        shutil.rmtree(directory)

    def through_proxy(self, path: str) -> Target:
        """Return *path* as a client with a key asks the proxy for it."""
        return Target(HOST, self.ports.listen, path, self._key())

    def direct(self, path: str) -> Target:
        """Return *path* as a proxy asks the static upstream for it."""
        return Target(HOST, self.ports.static, path, identity_headers(self.credentials))

    @staticmethod
    def _child(name: str, launch: Launch, core: int, directory: Path) -> Child:
        # Our own programs run wherever their files go, so they must be told where the code is.
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {"PYTHONPATH": path, **launch.environment}
        return Child(name, launch.argv, core=core, directory=directory, environment=environment)

    def _key(self) -> dict[str, str]:
        return {"x-api-key": self.credentials.key.raw}

    def _directory(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
