"""What `sidecar migrate` does to a database: tables in an empty one, and change notification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sidecar.store.base import StoreError

Outcome = Literal["installed", "renewed", "removed", "unchanged"]


class RightsMissing(StoreError):
    """The role may not do what is to be done; the message says what would help."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What is to be done, or was."""

    creates_tables: bool
    """Whether Better Auth's tables are made, as there are none at all."""
    notification: Outcome
    statements: tuple[str, ...]
    """The SQL, each without a semicolon; empty where nothing is to be done."""
    script: str
    """The same as one transaction, for other tools to run; empty where it is empty."""
    hint: str = ""
    """What is left for the operator to do; empty where nothing is."""

    def describe(self, *, removes: bool, done: bool) -> str:
        """Return in words what was done, or would be done."""
        match self.notification:
            case "unchanged":
                return f"nothing to do: change notification is {'not ' * removes}installed"
            case "installed":
                tables = "the tables of Better Auth 1.7, and " if self.creates_tables else ""
                return f"{'made' if done else 'would make'} {tables}change notification"
            case "renewed":
                verb = "renewed" if done else "would renew"
                return f"{verb} change notification, which was not as these tables need it"
            case "removed":
                return f"{'removed' if done else 'would remove'} change notification"


def outcome(*, remove: bool, was_there: bool, is_changed: bool) -> Outcome:
    """Return what becomes of change notification."""
    if not is_changed:
        return "unchanged"
    if remove:
        return "removed"
    return "renewed" if was_there else "installed"


def script(begin: str, statements: tuple[str, ...]) -> str:
    """Return *statements* as one transaction, which *begin* opens."""
    if not statements:
        return ""
    return "".join(f"{statement};\n" for statement in (begin, *statements, "COMMIT"))
