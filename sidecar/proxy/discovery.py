"""Where the servers of an upstream are: names are resolved again and again."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sidecar.auth.background import Background
    from sidecar.proxy.origin import Origin

_logger = logging.getLogger(__name__)

_AGAIN_S = 5.0
"""How long after the begin of a look-up its name is looked up again."""
_LOOKUP_S = 5.0
"""How long a look-up is waited for."""
_ADDRESSES = 64
"""How many addresses of a name are used; of more, the first."""


class Resolver(Protocol):
    """Who knows the addresses of names."""

    async def resolve(self, name: str) -> Sequence[str]:
        """Return the addresses of *name*. Raises OSError where there are none."""
        ...


class SystemResolver:
    """The system's own, with its hosts file and whatever else it is set up to ask."""

    async def resolve(self, name: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        return [str(address[0]) for *_, address in found]


class _Name:
    """A URL whose host has to be looked up."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.addresses: tuple[str, ...] = ()
        self.answer: asyncio.Task[Sequence[str]] | None = None
        """The look-up that has been begun: the system cannot be made to give one up."""
        self.due_at = 0.0
        self.is_awaited = False
        self.is_failing = False


class Discovery:
    """Where the servers of one upstream are: at each URL's address, or at each of its name's.

    A name is looked up every 5 s, by one look-up at a time. If that fails, its addresses stay what
    they were. `on_found` is told all places that there are, at the start and when they change.
    """

    def __init__(
        self,
        upstream: str,
        origins: Iterable[Origin],
        resolver: Resolver,
        on_found: Callable[[list[tuple[Origin, str]]], None],
        background: Background,
    ) -> None:
        self._upstream = upstream
        self._resolver = resolver
        self._on_found = on_found
        self._background = background
        origins = tuple(origins)
        self._fixed = [(origin, origin.host) for origin in origins if not origin.is_name]
        self._names = [_Name(origin) for origin in origins if origin.is_name]
        self._tell()

    async def start(self, now: float) -> None:
        """Look every name up, and wait for that, but no longer than 5 s."""
        await asyncio.gather(*(self._look_up(name, now) for name in self._names))

    def sweep(self, now: float) -> None:
        """Begin the look-ups that are due; *now* is monotonic."""
        for name in self._names:
            if name.due_at <= now and not name.is_awaited:
                self._background.start(self._look_up(name, now))

    async def _look_up(self, name: _Name, now: float) -> None:
        name.due_at = now + _AGAIN_S
        name.is_awaited = True
        try:
            if name.answer is None:
                name.answer = self._background.start(self._ask(name.origin.host))
            await asyncio.wait((name.answer,), timeout=_LOOKUP_S)
            if not name.answer.done():
                self._on_failure(name, "no answer yet")
                return
            answer, name.answer = name.answer, None
            self._take(name, answer.result())
        except OSError as error:
            self._on_failure(name, error.strerror or type(error).__name__)
        finally:
            name.is_awaited = False

    async def _ask(self, host: str) -> Sequence[str]:
        return await self._resolver.resolve(host)

    def _take(self, name: _Name, found: Sequence[str]) -> None:
        if name.is_failing:
            name.is_failing = False
            _logger.info("upstream %s: %s is resolved again", self._upstream, name.origin.host)
        addresses = tuple(dict.fromkeys(found))[:_ADDRESSES]
        if set(addresses) == set(name.addresses):
            # Resolvers give them in any order.
            return
        name.addresses = addresses
        text = "upstream %s: %s is at %s"
        _logger.info(text, self._upstream, name.origin.host, ", ".join(addresses))
        self._tell()

    def _on_failure(self, name: _Name, why: str) -> None:
        if not name.is_failing:
            name.is_failing = True
            text = "upstream %s: %s cannot be resolved: %s; addresses kept: %d"
            host, kept = name.origin.host, len(name.addresses)
            _logger.warning(text, self._upstream, host, why.lower(), kept)

    def _tell(self) -> None:
        named = [(name.origin, address) for name in self._names for address in name.addresses]
        self._on_found(self._fixed + named)
