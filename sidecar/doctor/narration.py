"""Why a request is answered as it is: the steps up to the one that decided.

The decision is the data plane's (`sidecar.doctor.trial`); its reason tells how far the request got.
What is told of each step comes from the very head, route and row that it was made by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.doctor.credentials import credential_steps
from sidecar.doctor.words import foreign, listed, some
from sidecar.errors import BAD_HOST, Refused
from sidecar.observe.redact import redact_target

if TYPE_CHECKING:
    from sidecar.doctor.story import Story, Told
    from sidecar.routes import Route

_FAILS_AT: Final = {
    "no_route": "route",
    "body_too_large": "route",
    "no_credential": "credential",
    "key_malformed": "credential",
    "session_malformed": "signature",
    "key_unknown": "key",
    "key_unreadable": "key",
    "key_disabled": "key",
    "key_expired": "key",
    "session_unknown": "session",
    "session_expired": "session",
    "cross_site": "cross-site",
    "user_banned": "owner",
    "organization_missing": "organization",
    "not_a_member": "membership",
    "identity_unusable": "membership",
    "organization_mismatch": "selection",
    "permission_missing": "permissions",
    "role_missing": "roles",
    "rate_limited": "limit",
    "quota_exhausted": "limit",
    "too_many_at_once": "limit",
}
"""Reasons, and the steps that they end at; others end at the last step that there is."""
_AMBIGUOUS: Final = "an upstream could read it as another path, or it is no path at all"
_OTHER_HOST: Final = "its host is another than that in Host"
_ALIKE: Final = {"user": "owner"}
"""Steps that are told under another name where they are another credential's."""


class Step(NamedTuple):
    """One step of a decision."""

    name: str
    passed: bool
    text: str


def narrate(story: Story, target: bytes) -> list[Step]:
    """Return the steps that a request with this *target* took, the one that refused it last."""
    last = _FAILS_AT.get(story.reason, "")
    steps: list[Step] = []
    for name, text in _steps(story, target):
        is_last = _ALIKE.get(name, name) == last
        steps.append(Step(name, not is_last, text))
        if is_last:
            return steps
    if story.reason != "ok":
        steps[-1] = steps[-1]._replace(passed=False)
    return steps


def _steps(story: Story, raw: bytes) -> Told:
    head, plane = story.head, story.plane
    yield "request", _request(story)
    try:
        target, route = plane.routes.resolve(raw, head.host)
    except Refused:
        is_foreign = story.reason == BAD_HOST.reason
        yield "target", _OTHER_HOST if is_foreign else _AMBIGUOUS
        return
    path, _, query = target.origin_form.partition(b"?")
    yield "target", f"{redact_target(path, query)} can be read in one way only"
    if route is None:
        yield "route", _no_route(story, path)
        return
    if route.methods and head.method not in route.methods and story.reason == "no_route":
        served = listed(sorted(method.decode() for method in route.methods))
        yield "route", f"{route.path} serves {served} alone, not {foreign(head.method)}"
        return
    yield "route", _route(story, route)
    if route.is_public:
        yield "public", "no credential is looked at"
    elif head.is_preflight and route.forwards_preflight:
        yield "preflight", "a browser asks what a page may do: no credential is looked at"
    else:
        yield from credential_steps(story, route)


def _request(story: Story) -> str:
    head, peer, plane = story.head, story.peer, story.plane
    told = f"{foreign(head.method)} to {foreign(head.host)}, from {foreign(peer.address)}"
    if not peer.is_trusted:
        return told
    client = plane.trusted.client(peer, head)
    return f"{told}, a trusted proxy; the client is {foreign(client)}"


def _route(story: Story, route: Route) -> str:
    if story.reason == "body_too_large":
        return f"{route.path} takes bodies of {route.body_bytes} bytes at most"
    demand = route.demand
    parts = [f"{route.path}, served by {route.upstream}"]
    if demand.admits:
        names = {"api_key": "API keys", "session": "sessions"}
        parts.append(f"for {listed(sorted(names[kind] for kind in demand.admits))}")
        parts.append("of an organization" if demand.organization_required else "of anybody")
    return ", ".join(parts[:2]) + "".join(f" {part}" for part in parts[2:])


def _no_route(story: Story, path: bytes) -> str:
    if b"%" in path or b";" in path:
        return "none has this path, or an upstream could read it as another route's"
    paths = [route.path for route in story.settings.routes]
    return f"none has this path: there {'is' if len(paths) == 1 else 'are'} {some(paths)}"
