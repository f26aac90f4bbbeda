"""What the demonstration prints: where it is, who may call, and lines to paste into a shell."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.demo import page
from sidecar.demo.accounts import MEMBERS, ORGANIZATION, email_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.demo.accounts import Accounts

_CURL = ("curl", "-sS")
_TALK = (sys.executable, "-m", "sidecar.demo.talk")
_JSON = ("-H", "content-type: application/json")
_EVENTS = ("-H", "accept: text/event-stream")
_END_OF_LINE = ("-w", r"\n")
_SUMMARY = ("-o", "/dev/null", "-w", r"%{http_code}: %{size_download} bytes in %{time_total} s\n")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to try."""

    title: str
    arguments: tuple[str, ...]
    command: tuple[str, ...] = _CURL

    def __str__(self) -> str:
        return f"# {self.title}\n{shlex.join((*self.command, *self.arguments))}"


@dataclass(frozen=True, slots=True)
class Tour:
    """The demonstration as it runs, for the person who started it."""

    base_url: str
    admin_url: str
    accounts: Accounts
    session_id: str
    """A chat session that is there from the start."""
    directory: Path
    directory_stays: bool

    def __str__(self) -> str:
        """Return the whole text; it ends with the line that says that everything is served."""
        return "\n\n".join(
            (
                "\n".join(f"{name:<14}{value}" for name, value in self._facts()),
                *map(str, self.steps()),
                f"ready: {self.base_url} (Ctrl-C ends it)",
            )
        )

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "base URL", self.base_url
        yield "organization", f"{ORGANIZATION} ({self.accounts.organization_id})"
        yield "members", ", ".join(f"{email_of(role)} ({role})" for role in MEMBERS)
        yield "API key", self.accounts.api_key
        yield "cookie", self.accounts.session_cookie
        yield "in a browser", f"{self.base_url}{page.PATH}#{self.accounts.session_cookie}"
        yield "directory", f"{self.directory}{'' if self.directory_stays else ' (until it ends)'}"

    def steps(self) -> tuple[Step, ...]:
        """Return what to try, in an order that tells a story."""
        key = ("-H", f"x-api-key: {self.accounts.api_key}")
        cookie = ("-b", self.accounts.session_cookie)
        chat = f"{self.base_url}/v1/chat"
        session = f"{chat}/sessions/{self.session_id}"
        export = f"{self.base_url}/api/export/conversations/{self.session_id}"
        live = f"ws{chat.removeprefix('http')}/live"
        hello = ("-d", '{"message": "Hello"}')
        question = ("-d", '{"content": "What is new?"}')
        return (
            Step("Chat by API key, answered as JSON", (*key, *_JSON, *hello, chat)),
            Step(
                "The same as server-sent events, one by one",
                ("-N", *key, *_JSON, *_EVENTS, *hello, chat),
            ),
            Step(
                "In a session, by a signed-in user's cookie",
                (*cookie, *_JSON, *question, f"{session}/messages"),
            ),
            Step(
                "By the cookie, as events",
                ("-N", *cookie, *_JSON, *_EVENTS, *question, f"{session}/messages"),
            ),
            Step("The organization's chat sessions", (*key, f"{chat}/sessions")),
            Step("What was said, in pages", (*key, f"{session}/messages?limit=4")),
            Step("Live, over a WebSocket", (*key, live, "Hello", "Still there?"), _TALK),
            Step("A download of 100 MB", (*key, *_SUMMARY, f"{export}?size=100MB")),
            Step("No credential: 401", ("-i", *_END_OF_LINE, f"{chat}/sessions")),
            Step(
                "A wrong key: 401, whatever the cookie says",
                ("-i", *_END_OF_LINE, "-H", "x-api-key: wrong", *cookie, f"{chat}/sessions"),
            ),
            Step("Health, on the admin listener", (*_END_OF_LINE, f"{self.admin_url}/healthz")),
            Step("Readiness", (*_END_OF_LINE, f"{self.admin_url}/readyz")),
        )
