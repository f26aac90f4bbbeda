"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says. It holds no credential, nor a hash of one."""

    verdict: Verdict
    what: str
    """One sentence: what is so, or wrong, or why it was not looked at."""
    remedy: str | None = None
    """What to do about it."""
    details: tuple[str, ...] = ()
    """Lines that belong to it: ids, the rows of a table."""


def ok(what: str, *details: str) -> Finding:
    """Return that something is as it should be."""
    return Finding("ok", what, None, details)


def warning(what: str, remedy: str, *details: str) -> Finding:
    """Return what works, and should not stay so."""
    return Finding("warning", what, remedy, details)


def problem(what: str, remedy: str, *details: str) -> Finding:
    """Return what does not work."""
    return Finding("problem", what, remedy, details)


def skipped(why: str, remedy: str | None = None) -> Finding:
    """Return that something was not looked at; *remedy* says how it can be."""
    return Finding("skipped", why, remedy)
