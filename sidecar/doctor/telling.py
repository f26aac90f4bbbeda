"""What was found out, as text for people and as JSON for programs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import orjson

from sidecar.doctor.words import count, some

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.doctor.examination import Outcome
    from sidecar.doctor.explanation import Explanation
    from sidecar.doctor.findings import Finding


_VERDICTS: Final = ("problem", "warning", "ok", "skipped")
_WIDTH: Final = 96


def outcome_as_text(config: str, outcome: Outcome) -> str:
    """Return the findings by check, and how many there are of each verdict."""
    lines = [f"config  {config}"]
    last = ""
    for check, finding in outcome.findings:
        if check != last:
            lines += ["", check]
            last = check
        lines += _finding(finding)
    problems, warnings = (
        count(_count(outcome, verdict), verdict) for verdict in ("problem", "warning")
    )
    others = f"{_count(outcome, 'ok')} ok, {_count(outcome, 'skipped')} skipped"
    return "\n".join((*lines, "", f"{problems}, {warnings}, {others}"))


def outcome_as_json(config: str, outcome: Outcome) -> bytes:
    """Return one JSON object, documented in docs/troubleshooting.md."""
    return orjson.dumps(
        {
            "ok": not _count(outcome, "problem"),
            "config": config,
            "counts": {verdict: _count(outcome, verdict) for verdict in _VERDICTS},
            "findings": [
                {
                    "check": check,
                    "verdict": finding.verdict,
                    "what": finding.what,
                    "remedy": finding.remedy,
                    "details": finding.details,
                }
                for check, finding in outcome.findings
            ],
        },
        option=orjson.OPT_INDENT_2,
    )


def _count(outcome: Outcome, verdict: str) -> int:
    return sum(finding.verdict == verdict for _, finding in outcome.findings)


def _finding(finding: Finding) -> Iterator[str]:
    yield from _wrapped(f"  {finding.verdict:<7}  ", finding.what)
    for detail in finding.details:
        yield from _wrapped(" " * 11, detail)
    if finding.remedy is not None and finding.remedy.endswith(";"):
        yield f"  to do    {finding.remedy}"  # a statement, to be copied as it is
    elif finding.remedy is not None:
        yield from _wrapped("  to do    ", finding.remedy)


def _wrapped(before: str, text: str) -> list[str]:
    """Return *text* in lines of a readable length; a path, which has no space, stays whole."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=before,
        subsequent_indent=" " * len(before),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def explanation_as_text(explanation: Explanation) -> str:
    """Return the steps, one a line, and what becomes of the request."""
    return "\n".join(_lines(explanation))


def explanation_as_json(explanation: Explanation) -> bytes:
    """Return one JSON object, documented in docs/troubleshooting.md."""
    said = explanation.body or {}
    refusal = {
        "status": explanation.status,
        "error": said.get("error"),
        "message": said.get("message"),
        "reason": explanation.reason,
        "retry_after_s": explanation.retry_after_s,
    }
    forwarded = {
        "upstream": explanation.upstream,
        "server": explanation.server,
        "head": explanation.head,
        "passed_on": explanation.passed_on,
        "removed": explanation.removed,
    }
    is_forwarded = explanation.status is None
    return orjson.dumps(
        {
            "forwarded": forwarded if is_forwarded else None,
            "refused": None if is_forwarded else refusal,
            "steps": [
                {"step": step.name, "passed": step.passed, "text": step.text}
                for step in explanation.steps
            ],
        },
        option=orjson.OPT_INDENT_2,
    )


def _lines(explanation: Explanation) -> Iterator[str]:
    width = max(len(step.name) for step in explanation.steps)
    for step in explanation.steps:
        yield f"{'ok     ' if step.passed else 'REFUSED'}  {step.name.ljust(width)}  {step.text}"
    yield ""
    if explanation.status is None:
        yield from _forwarded(explanation)
    else:
        yield from _refused(explanation)


def _forwarded(explanation: Explanation) -> Iterator[str]:
    yield f"Forwarded to {explanation.upstream}, {explanation.server}:"
    for line in explanation.head:
        yield f"  {line}"
    for what, names in (
        ("passed on as they are", explanation.passed_on),
        ("taken out", explanation.removed),
    ):
        if names:
            yield f"  ({what}: {some(names)})"


def _refused(explanation: Explanation) -> Iterator[str]:
    said = explanation.body or {}
    error = f" {said['error']}" if said else ""
    reason = f"reason in the access log: {explanation.reason}"
    yield f"Refused with {explanation.status}{error} ({reason}){':' if said else ''}"
    if said:
        yield f"  {said['message']}"
    if explanation.retry_after_s is not None:
        yield f"  Retry-After: {explanation.retry_after_s}"
