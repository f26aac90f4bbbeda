"""A second reader of HTTP/1.1, of another make and strict: h11."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from collections.abc import Iterable

Fields = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, with their values."""

_EVENT_BYTES = 1024 * 1024
_CYCLE = (h11.Response(status_code=200, headers=[("Content-Length", "0")]), h11.EndOfMessage())


@dataclass(frozen=True)
class Request:
    """One request; `is_whole` is false where its body has not ended."""

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = ()
    is_whole: bool = True

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    @property
    def host(self) -> bytes | None:
        return next(iter(self.values(b"host")), None)


@dataclass(frozen=True)
class Response:
    """One response, with the status of each interim one before it."""

    status: int
    reason: bytes
    fields: Fields
    interim: tuple[int, ...] = ()
    body: bytes = b""
    trailers: Fields = ()
    is_whole: bool = True

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


class Unreadable(Exception):
    """Not HTTP to this reader; `before` holds the whole requests that came before."""

    def __init__(self, message: str, before: Iterable[Request] = ()) -> None:
        super().__init__(message)
        self.before = list(before)


def read_requests(raw: bytes) -> list[Request]:
    """Return the requests in *raw*, of which the last may not be whole.

    Raises Unreadable.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_EVENT_BYTES)
    connection.receive_data(raw)
    requests = []
    try:
        while isinstance(head := connection.next_event(), h11.Request):
            body, end = _read_body(connection)
            requests.append(
                Request(
                    head.method,
                    head.target,
                    head.http_version,
                    tuple(head.headers),
                    body,
                    tuple(end.headers) if end is not None else (),
                    end is not None,
                )
            )
            if end is None or connection.their_state is not h11.DONE:
                break
            for event in _CYCLE:
                connection.send(event)
            if connection.our_state is not h11.DONE:
                break  # it asked for a close
            connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        raise Unreadable(str(error), requests) from error
    return requests


def read_request(raw: bytes) -> Request:
    """Return the one request that *raw* is.

    Raises Unreadable where it is none, not whole, or more than one.
    """
    requests = read_requests(raw)
    if len(requests) != 1 or not requests[0].is_whole:
        raise Unreadable(f"{len(requests)} requests, the last of them whole or not")
    return requests[0]


def read_responses(
    raw: bytes, methods: Iterable[bytes], *, ended: bool = False
) -> tuple[list[Response], bytes]:
    """Return the responses in *raw* to requests by these *methods*, and what follows them.

    The last may not be whole. *ended* says that the connection was closed. Raises Unreadable.
    """
    responses = []
    for method in methods:
        if not raw:
            break
        response, raw = _read_response(raw, method, ended=ended)
        if response is None:
            break
        responses.append(response)
        if not response.is_whole:
            break
    return responses, raw


def _read_response(raw: bytes, method: bytes, *, ended: bool) -> tuple[Response | None, bytes]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_EVENT_BYTES)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(raw)
        if ended:
            connection.receive_data(b"")
        interim = []
        while isinstance(head := connection.next_event(), h11.InformationalResponse):
            interim.append(head.status_code)
        if not isinstance(head, h11.Response):
            return None, raw
        try:
            body, end = _read_body(connection)
        except h11.RemoteProtocolError:
            if not ended:
                raise
            body, end = b"", None  # the close came too early
    except h11.RemoteProtocolError as error:
        raise Unreadable(str(error)) from error
    response = Response(
        head.status_code,
        head.reason,
        tuple(head.headers),
        tuple(interim),
        body,
        tuple(end.headers) if end is not None else (),
        end is not None,
    )
    return response, connection.trailing_data[0]


def _read_body(connection: h11.Connection) -> tuple[bytes, h11.EndOfMessage | None]:
    pieces = []
    while isinstance(event := connection.next_event(), h11.Data):
        pieces.append(bytes(event.data))
    return b"".join(pieces), event if isinstance(event, h11.EndOfMessage) else None
