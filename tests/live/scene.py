"""What a test against a live Better Auth begins with, and how it asks the sidecar."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.harness import request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness import Client, RecordingUpstream, Response
    from tests.live.site import Key, Site, Visitor
    from tests.sockets.process import SidecarProcess

_GLANCE_S = 0.02


@dataclass(frozen=True)
class Scene:
    """Grace owns Acme; Ada is an admin there, with a session and a key. Root runs the platform."""

    site: Site
    sidecar: SidecarProcess
    client: Client
    """A connection to the sidecar that is kept."""
    upstream: RecordingUpstream
    due_s: float
    """Within which a change takes effect."""
    root: Visitor
    grace: Visitor
    ada: Visitor
    acme: str
    key: Key

    async def ask(
        self, credential: Key | Visitor, path: str = "/v1/chat", *lines: bytes
    ) -> Response:
        """Ask on the connection that is kept, with more *lines* in the head."""
        return await self.client.ask(request(b"GET %b" % path.encode(), credential.line, *lines))

    async def admits(
        self, credential: Key | Visitor, path: str = "/v1/chat", *lines: bytes
    ) -> dict[str, str]:
        """Return what the upstream is told of a credential, which has to be good."""
        response = await self.ask(credential, path, *lines)
        assert response.status == 200, response.body
        return self._told()

    async def becomes(
        self,
        status: int,
        credential: Key | Visitor,
        path: str = "/v1/chat",
        *,
        later_s: float = 0,
    ) -> Response:
        """Return the first answer with *status*, which is due in time.

        It is called as soon as Better Auth has answered the call that makes the change, which
        takes effect so much *later*.
        """
        due_s = later_s + self.due_s
        seen: list[int] = []
        async for response in self._answers(credential, path, due_s):
            if response.status == status:
                return response
            seen.append(response.status)
        raise AssertionError(f"not {status} {due_s:g} s after the change, but {seen[-1]}")

    async def organization_changed(self, credential: Visitor, before: str) -> str:
        """Return the first organization that is another than *before*, likewise."""
        async for response in self._answers(credential, "/v1/chat", self.due_s):
            assert response.status == 200, response.body
            organization = self._told()["organization-id"]
            if organization != before:
                return organization
        raise AssertionError(f"still the same organization, {self.due_s:g} s after the change")

    async def _answers(
        self, credential: Key | Visitor, path: str, due_s: float
    ) -> AsyncIterator[Response]:
        """Yield answers to requests that are sent until a change is due, and to one after that."""
        due_at = time.monotonic() + due_s
        is_due = False
        while not is_due:
            is_due = time.monotonic() >= due_at
            yield await self.ask(credential, path)
            await asyncio.sleep(_GLANCE_S)

    def _told(self) -> dict[str, str]:
        """Return what the upstream was told of the last request's identity."""
        names = ("organization-id", "organization-role", "user-id", "auth-method", "api-key-id")
        told = self.upstream.last
        return {name: value.decode() for name in names for value in told.values(f"x-{name}")}
