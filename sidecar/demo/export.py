"""An export API of the demonstration: downloads of any size, whole or by range."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from aiohttp import ETag, web

from sidecar.demo.documents import Form, conversation, parse_size
from sidecar.demo.upstream import caller_of, create_app

if TYPE_CHECKING:
    from sidecar.demo.documents import Document

SIZE_DEFAULT = "64k"
_TYPES = {
    Form.JSONL: "application/jsonl",
    Form.CSV: "text/csv; charset=utf-8; header=present",
}


def create_export(internal_token: str) -> web.Application:
    """Return the export API."""
    app = create_app(internal_token)
    app.router.add_get("/api/export/conversations/{id:[A-Za-z0-9_-]{1,64}}", download)
    return app


async def download(request: web.Request) -> web.StreamResponse:
    """`GET /api/export/conversations/{id}?size=100MB&format=csv`: stream the document.

    The same request gets the same bytes and the same ETag; one range is served (RFC 9110
    section 14), several are answered with the whole.
    """
    organization_id = caller_of(request).organization_id
    conversation_id = request.match_info["id"]
    try:
        form = Form(request.query.get("format", Form.JSONL))
    except ValueError as error:
        raise web.HTTPBadRequest(text="format must be jsonl or csv.") from error
    try:
        size = parse_size(request.query.get("size", SIZE_DEFAULT))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{error}.") from error
    document = conversation(organization_id, conversation_id, form, size)

    response = web.StreamResponse()
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Cache-Control"] = "private, no-cache"
    seed = f"{organization_id}\n{conversation_id}\n{form}\n{size}"
    response.etag = tag = hashlib.sha256(seed.encode()).hexdigest()[:32]
    if request.if_none_match and request.if_none_match[0] in (ETag(tag), ETag("*")):
        response.set_status(304)
        await response.prepare(request)
        return response

    response.headers["Content-Type"] = _TYPES[form]
    response.headers["Content-Disposition"] = f'attachment; filename="{conversation_id}.{form}"'
    return await _send(request, response, document, _range_of(request, tag, document.size))


async def _send(
    request: web.Request, response: web.StreamResponse, document: Document, part: range | None
) -> web.StreamResponse:
    """Write *part* of the document, or all of it, as fast as the client reads."""
    wanted = part if part is not None else range(document.size)
    if part is not None:
        span = f"{part.start}-{part.stop - 1}" if part else "*"
        response.headers["Content-Range"] = f"bytes {span}/{document.size}"
        response.set_status(206 if part else 416)
    response.content_length = len(wanted)
    await response.prepare(request)
    if request.method == "GET":
        for piece in document.pieces(wanted.start, wanted.stop):
            await response.write(piece)
    return response


def _range_of(request: web.Request, tag: str, size: int) -> range | None:
    """Return the bytes asked for, none at all where there are none such, or None for the whole.

    What is malformed, or made for another version of the document, counts as not sent
    (RFC 9110 sections 13.1.5 and 14.2).
    """
    headers = request.headers
    if request.method != "GET" or "Range" not in headers:
        return None
    if headers.get("If-Range", f'"{tag}"') != f'"{tag}"':
        return None
    try:
        return range(size)[request.http_range]
    except ValueError:
        return None
