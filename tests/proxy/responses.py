"""Responses as a client of another make (h11) reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import h11


@dataclass(frozen=True)
class Response:
    """One whole response. Names of fields are in lower case."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]
    interim: list[int]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def value(self, name: str) -> str | None:
        """Return the only value of a field; None where there is none."""
        values = self.values(name)
        assert len(values) < 2, f"{name} stands {len(values)} times"
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this response, by its own word."""
        return self.value("connection") == "close"

    def json(self) -> Any:
        return json.loads(self.body)


def read(raw: bytes, *methods: str, ended: bool = False) -> list[Response]:
    """Return the responses in *raw* to requests by these *methods*; by default to one GET.

    *ended* says that the connection was closed after them. Raises h11.RemoteProtocolError where
    they are no HTTP or not whole.
    """
    connection = h11.Connection(h11.CLIENT)
    connection.receive_data(raw)
    if ended:
        connection.receive_data(b"")
    responses = []
    for number, method in enumerate(methods or ("GET",)):
        if number:
            connection.start_next_cycle()
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "api.test")]))
        connection.send(h11.EndOfMessage())
        responses.append(_read_one(connection))
    rest, _ = connection.trailing_data
    assert not rest, f"{len(rest)} bytes after the last response"
    return responses


def read_one(raw: bytes, method: str = "GET", *, ended: bool = False) -> Response:
    """Return the one response in *raw*."""
    return read(raw, method, ended=ended)[0]


def _read_one(connection: h11.Connection) -> Response:
    interim = []
    body = b""
    head: h11.Response | None = None
    while True:
        event = connection.next_event()
        if isinstance(event, h11.InformationalResponse):
            interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            raise h11.RemoteProtocolError(f"the response is not whole: {event}")
    assert head is not None
    return Response(head.status_code, _text(head.headers), body, _text(event.headers), interim)


def _text(fields: Any) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode("latin-1")) for name, value in fields]
