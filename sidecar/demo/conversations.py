"""Chat sessions of the demonstration, in memory and bounded in every direction."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sidecar.clock import Clock

ORGANIZATIONS_KEPT = 64
SESSIONS_KEPT = 100
"""Of one organization; a new one beyond takes the place of the oldest."""
MESSAGES_KEPT = 200
"""Of one session; the oldest leave first."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `id` counts from 1 within its session."""

    id: int
    role: Literal["user", "assistant"]
    content: str
    created_at: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a session's history, oldest first; `next_cursor` is None at its end."""

    messages: list[Message]
    next_cursor: str | None


@dataclass(slots=True, eq=False)
class ChatSession:
    """One conversation; it keeps its newest MESSAGES_KEPT messages."""

    id: str
    title: str
    created_by: str | None
    created_at: str
    message_count: int = 0
    """Messages ever written, those that have left included."""
    _messages: deque[Message] = field(default_factory=lambda: deque(maxlen=MESSAGES_KEPT))

    def add(self, role: Literal["user", "assistant"], content: str, created_at: str) -> Message:
        """Append a message and return it."""
        self.message_count += 1
        message = Message(self.message_count, role, content, created_at)
        self._messages.append(message)
        return message

    def page(self, after: int, limit: int) -> Page:
        """Return at most *limit* messages that follow the one whose id is *after*."""
        later = (message for message in self._messages if message.id > after)
        messages = list(islice(later, limit))
        if not messages or messages[-1].id == self.message_count:
            return Page(messages, None)
        return Page(messages, str(messages[-1].id))


class Conversations:
    """The chat sessions of all organizations; none sees another's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of: OrderedDict[str, OrderedDict[str, ChatSession]] = OrderedDict()

    def begin(
        self, organization_id: str, title: str, created_by: str | None, session_id: str = ""
    ) -> ChatSession:
        """Open a session and return it; without *session_id* it gets a random one."""
        session = ChatSession(session_id or secrets.token_hex(12), title, created_by, self.now())
        sessions = self._of.setdefault(organization_id, OrderedDict())
        self._of.move_to_end(organization_id)
        sessions[session.id] = session
        if len(sessions) > SESSIONS_KEPT:
            sessions.popitem(last=False)
        if len(self._of) > ORGANIZATIONS_KEPT:
            self._of.popitem(last=False)
        return session

    def find(self, organization_id: str, session_id: str) -> ChatSession | None:
        """Return that organization's session of that id, or None."""
        sessions = self._of.get(organization_id)
        return sessions.get(session_id) if sessions else None

    def newest_first(self, organization_id: str) -> list[ChatSession]:
        """Return the organization's sessions, newest first."""
        sessions = self._of.get(organization_id)
        return list(reversed(sessions.values())) if sessions else []

    def now(self) -> str:
        """Return the time as ISO 8601 in UTC with milliseconds."""
        moment = datetime.fromtimestamp(self._clock.time(), UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
