"""A site that uses Better Auth: its server, and the people who visit it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.harness import SECRET, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

ORIGIN = "http://site.example.test"
_PASSWORD = "correct horse battery staple"


class BetterAuthError(Exception):
    """Better Auth refused a call; the text is its status and code."""


@dataclass(frozen=True)
class Visitor:
    """A browser in which somebody has signed in."""

    id: str
    """The user's id."""
    email: str
    cookie: str = field(repr=False)
    """The `Cookie` header."""

    @property
    def line(self) -> bytes:
        return b"Cookie: %b" % self.cookie.encode()

    @property
    def token(self) -> str:
        """The session's token."""
        return self.cookie.split("=", 1)[1].split(".")[0]


@dataclass(frozen=True)
class Key:
    """An API key, as it was created."""

    id: str
    raw: str = field(repr=False)

    @property
    def line(self) -> bytes:
        return b"x-api-key: %b" % self.raw.encode()


class Site:
    """Better Auth's own interface, from outside and from inside."""

    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"

    async def call(self, path: str, visitor: Visitor, /, **body: object) -> Any:
        """Call `/api/auth/PATH` as a browser does: POST with a body, GET without one."""
        method = "POST" if body else "GET"
        return (await self._ask(method, f"/api/auth/{path}", body, visitor))[0]

    async def post(self, path: str, visitor: Visitor) -> Any:
        """POST nothing to `/api/auth/PATH`."""
        return (await self._ask("POST", f"/api/auth/{path}", {}, visitor))[0]

    async def serve(self, call: str, /, **body: object) -> Any:
        """Call `auth.api.CALL` as the application's server does, without a session."""
        return (await self._ask("POST", f"/server/{call}", body))[0]

    async def sign_up(self) -> Visitor:
        """Have a new user sign up."""
        named = {"name": "Visitor", "email": _address(), "password": _PASSWORD}
        return await self._enter("sign-up/email", **named)

    async def sign_in(self, visitor: Visitor, **options: object) -> Visitor:
        """Have a user sign in once more, in another browser."""
        named = {"email": visitor.email, "password": _PASSWORD}
        return await self._enter("sign-in/email", **named, **options)

    async def impersonate(self, administrator: Visitor, user: Visitor) -> Visitor:
        """Have an administrator act as a user."""
        return await self._enter("admin/impersonate-user", administrator, userId=user.id)

    async def sign_in_admin(self) -> Visitor:
        """Return the platform's administrator."""
        named = {"email": _address(), "password": _PASSWORD}
        await self.serve("createUser", **named, name="Admin", role="admin")
        return await self._enter("sign-in/email", **named)

    async def change_password(self, visitor: Visitor) -> None:
        """Change the password, and end all other sessions of the user."""
        passwords = {"currentPassword": _PASSWORD, "newPassword": _PASSWORD + "!"}
        await self.call("change-password", visitor, **passwords, revokeOtherSessions=True)

    async def found(self, owner: Visitor) -> str:
        """Create an organization; it becomes the active one. Return its id."""
        slug = f"organization-{secrets.token_hex(4)}"
        made = await self.call("organization/create", owner, name="Acme", slug=slug)
        return str(made["id"])

    async def add_member(
        self, organization: str, user: Visitor, role: str | list[str] = "member"
    ) -> None:
        await self.serve("addMember", organizationId=organization, userId=user.id, role=role)

    async def select(self, visitor: Visitor, organization: str | None) -> None:
        """Set the session's active organization."""
        await self.call("organization/set-active", visitor, organizationId=organization)

    async def create_key(self, owner: Visitor, organization: str) -> Key:
        """Have a user create a key; its metadata names the organization."""
        metadata = {"organizationId": organization}
        made = await self.call("api-key/create", owner, name="Server", metadata=metadata)
        return Key(made["id"], made["key"])

    async def issue_key(
        self,
        owner: Visitor,
        organization: str | None,
        *,
        metadata: Mapping[str, object] | None = None,
        **properties: object,
    ) -> Key:
        """Have the application's server create a key of a user, with any properties."""
        named = {} if organization is None else {"organizationId": organization}
        made = await self.serve(
            "createApiKey", userId=owner.id, metadata={**(metadata or {}), **named}, **properties
        )
        return Key(made["id"], made["key"])

    async def create_key_of(self, organization: str, creator: Visitor) -> Key:
        """Create a key of an organization."""
        named = {"configId": "organization", "organizationId": organization}
        made = await self.call("api-key/create", creator, name="Server", **named)
        return Key(made["id"], made["key"])

    async def accepts_key(self, key: Key, **permissions: list[str]) -> bool:
        """Return what `verifyApiKey` says."""
        wanted = {"permissions": permissions} if permissions else {}
        answer = await self.serve("verifyApiKey", key=key.raw, **wanted)
        return bool(answer["valid"])

    async def session_of(self, visitor: Visitor) -> dict[str, Any] | None:
        """Return what `getSession` says; None for no session."""
        answer: dict[str, Any] | None = await self.call("get-session", visitor)
        return answer

    async def _enter(self, path: str, visitor: Visitor | None = None, /, **body: object) -> Visitor:
        answer, lines = await self._ask("POST", f"/api/auth/{path}", body, visitor)
        # The last one counts: another session's may be taken back before.
        *_, line = (each for each in lines if each.startswith("better-auth.session_token="))
        return Visitor(answer["user"]["id"], answer["user"]["email"], line.split(";")[0])

    async def _ask(
        self, method: str, path: str, body: object, visitor: Visitor | None = None
    ) -> tuple[Any, list[str]]:
        """Return the answer's JSON and the lines of its `Set-Cookie` fields."""
        cookies = {} if visitor is None else {"Cookie": visitor.cookie}
        async with self._session.request(
            method,
            self._url + path,
            json=body if method == "POST" else None,
            headers={"Origin": ORIGIN, **cookies},
        ) as response:
            answer = json.loads(await response.read() or b"null")
            if response.status != 200:
                raise BetterAuthError(f"{path}: {response.status} {answer}")
            return answer, response.headers.getall("Set-Cookie", [])


def _address() -> str:
    return f"{secrets.token_hex(8)}@example.test"


@contextlib.asynccontextmanager
async def serving(node: Path, script: Path, log: Path, **database: str) -> AsyncIterator[Site]:
    """Run Better Auth on *database*: `sqlite`, a path, or `postgres`, a URL. It logs to *log*."""
    options = {"secret": SECRET, "origin": ORIGIN, **database}
    with log.open("ab") as written:
        process = await asyncio.create_subprocess_exec(
            *(str(node), str(script), json.dumps(options)),
            stdin=asyncio.subprocess.PIPE,  # it ends with this process, however that ends
            stdout=asyncio.subprocess.PIPE,
            stderr=written,
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(2 * TIMEOUT_S):
            line = await process.stdout.readline()
        assert line, f"Better Auth did not start: see {log}"
        jar = aiohttp.DummyCookieJar()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as session:
            yield Site(int(line), session)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
