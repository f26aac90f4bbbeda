"""The demonstration's page: the live chat in a browser, for whoever asks.

It holds nothing of anybody's, so its route is public. What it talks to is not.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

PATH = "/demo"

_FILES = Path(__file__).with_name("static")
_TYPES = {"live.html": "text/html", "live.css": "text/css", "live.js": "text/javascript"}
_HEADERS = {
    # Nothing but files of its own and connections to where it came from; no code within the page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_routes() -> list[web.RouteDef]:
    """Return the routes of the page and its files, which are read here."""
    bodies = {name: (_FILES / name).read_bytes() for name in _TYPES}

    async def send(request: web.Request) -> web.Response:
        name = request.match_info.get("file", "live.html")
        if name not in bodies:
            raise web.HTTPNotFound
        return web.Response(
            body=bodies[name], content_type=_TYPES[name], charset="utf-8", headers=_HEADERS
        )

    return [web.get(PATH, send), web.get(f"{PATH}/{{file}}", send)]
