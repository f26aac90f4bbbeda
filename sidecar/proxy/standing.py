"""Whether a server may be trusted with requests, as its answers and its failures tell."""

from __future__ import annotations

_FAILURES = 3
"""How many in a row set a server aside; one that cannot be connected to is at once."""
_SHORTEST_S = 1.0
_LONGEST_S = 60.0
"""How long a server is set aside: twice as long each time, from the shortest to the longest."""


class Standing:
    """What is known of a server.

    States: IN USE -> SET ASIDE after failures -> ON TRIAL with one request, when its time has come
    -> IN USE, or SET ASIDE for twice as long. A trial without an outcome is followed by another.
    Active checks take a server out of use besides.
    """

    __slots__ = (
        "_back_at",
        "_failures",
        "backoff_s",
        "due_at",
        "is_aside",
        "is_down",
        "is_on_trial",
        "is_proven",
    )

    def __init__(self) -> None:
        self.is_proven = False
        """Whether it has answered since it last failed; set by whoever sees an answer."""
        self.is_down = False
        """Whether active checks say so; set by them."""
        self.is_aside = False
        self.is_on_trial = False
        self.due_at = 0.0
        """When it may be tried again, while it is set aside; monotonic."""
        self.backoff_s = 0.0
        """How long it is, or last was, set aside."""
        self._failures = 0
        self._back_at = 0.0

    @property
    def is_in_use(self) -> bool:
        """Whether requests go there as a matter of course."""
        return not self.is_aside and not self.is_down

    def is_due(self, now: float) -> bool:
        """Whether the next request should be its trial."""
        return self.is_aside and not self.is_down and self.due_at <= now

    def fail(self, now: float, *, at_once: bool) -> bool:
        """Take note of a failure; return whether it set the server aside.

        Failures of a server that is set aside and not on trial, which it gets only where no other
        is left, change nothing: its time comes no later for them.
        """
        if self.is_proven:
            self.is_proven = False
            self._failures = 0
        self._failures += 1
        if self.is_aside:
            if self.is_on_trial:
                self._set_aside(now, min(2 * self.backoff_s, _LONGEST_S))
            return False
        if not at_once and self._failures < _FAILURES:
            return False
        # One that was well for no longer than it had been set aside goes on where it stopped.
        is_relapse = now - self._back_at < self.backoff_s
        self._set_aside(now, min(2 * self.backoff_s, _LONGEST_S) if is_relapse else _SHORTEST_S)
        return True

    def _set_aside(self, now: float, backoff_s: float) -> None:
        self.is_aside = True
        self.is_on_trial = False
        self.backoff_s = backoff_s
        self.due_at = now + backoff_s

    def begin_trial(self, now: float) -> None:
        """Take note that the next request is its trial."""
        self.is_on_trial = True
        self.due_at = now + self.backoff_s

    def recover(self, now: float) -> None:
        """Bring a server back that was set aside and has answered."""
        self.is_aside = self.is_on_trial = False
        self._failures = 0
        self._back_at = now
