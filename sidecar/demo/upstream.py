"""What both demonstration upstreams share: whom they believe, and the shape of their answers.

An upstream behind the sidecar verifies no credential. It needs two things only: proof that a
request came through the sidecar (`x-internal-token`), and the identity headers, which it may then
believe. This is all the code that takes.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, as the sidecar says."""

    organization_id: str
    user_id: str | None
    role: str | None
    method: str


def create_app(internal_token: str) -> web.Application:
    """Return an application that answers only what comes with *internal_token*, in JSON."""

    @web.middleware
    async def believe_the_sidecar(request: web.Request, handler: Handler) -> web.StreamResponse:
        shown = request.headers.get("x-internal-token", "")
        try:
            if not hmac.compare_digest(shown.encode(errors="replace"), internal_token.encode()):
                raise web.HTTPForbidden(text="This service is reached through the sidecar alone.")
            return await handler(request)
        except web.HTTPException as error:
            return _refusal(error)

    return web.Application(middlewares=[believe_the_sidecar], client_max_size=BODY_BYTES)


def caller_of(request: web.Request) -> Caller:
    """Return the caller that the identity headers name.

    Raises HTTPForbidden where they name no organization: everything here belongs to one.
    """
    headers = request.headers
    organization_id = headers.get("x-organization-id")
    if not organization_id:
        raise web.HTTPForbidden(text="An organization is needed here.")
    return Caller(
        organization_id,
        headers.get("x-user-id"),
        headers.get("x-organization-role"),
        headers.get("x-auth-method", ""),
    )


async def json_object(request: web.Request) -> dict[str, object]:
    """Return the request's body, a JSON object (RFC 8259).

    Raises HTTPBadRequest for anything else, HTTPRequestEntityTooLarge beyond BODY_BYTES.
    """
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise web.HTTPBadRequest(text="The body must be JSON.") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="The body must be a JSON object.")
    return body


def json_answer(data: object, status: int = 200) -> web.Response:
    """Return *data* as JSON that ends its line, so that a terminal shows it well."""
    return web.Response(
        body=orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE),
        status=status,
        content_type="application/json",
    )


def _refusal(error: web.HTTPException) -> web.Response:
    answer = json_answer({"error": error.reason, "message": error.text}, error.status)
    if "Allow" in error.headers:  # RFC 9110 section 15.5.6 demands it of a 405
        answer.headers["Allow"] = error.headers["Allow"]
    return answer
