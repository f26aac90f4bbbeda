"""Nothing is measured that does not do its work: each proxy is asked before its round."""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING, Any

from bench.credentials import letters
from bench.errors import BenchError
from bench.load.requests import Target
from bench.load.upload import upload
from bench.ports import HOST
from bench.upstream.static import ITEM, ITEM_PATH, SEEN_PATH
from bench.upstream.streaming import DOWNLOAD_PATH, EVENTS_PATH, UPLOAD_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.credentials import Credentials
    from bench.process import Child

_START_S = 15.0
_ANSWER_S = 5.0


def get(port: int, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Return status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_until_serving(child: Child, port: int, path: str, headers: Mapping[str, str]) -> None:
    """Return when *path* is answered with 200; raises BenchError where it never is."""
    deadline = time.monotonic() + _START_S
    said = "nothing"
    while time.monotonic() < deadline:
        child.check()
        try:
            status, _ = get(port, path, headers)
        except (OSError, http.client.HTTPException) as error:
            said = type(error).__name__
        else:
            if status == 200:
                return
            said = str(status)
        time.sleep(0.05)
    problem = f"{child.name} does not serve after {_START_S:.0f} s: last answer {said}"
    raise BenchError(problem + child.log_tail())


def check_proxy(name: str, port: int, credentials: Credentials) -> None:
    """Raise BenchError where the proxy lets strangers in or tells the upstream wrong things."""
    key = {"x-api-key": credentials.key.raw}
    _expect(name, "a request without a key", get(port, ITEM_PATH, {})[0], 401)
    stranger = {"x-api-key": letters(64)}
    _expect(name, "a request with an unknown key", get(port, ITEM_PATH, stranger)[0], 401)
    _expect(name, "a request with a key", get(port, ITEM_PATH, key), (200, ITEM.encode()))
    # A header of the client's own must not reach the upstream.
    status, seen = get(port, SEEN_PATH, {**key, "x-user-id": "stranger"})
    _expect(name, "the upstream's view", status, 200)
    _expect_identity(name, json.loads(seen), credentials)
    status, events = get(port, f"{EVENTS_PATH}?period_ms=1&count=3", key)
    _expect(name, "an event stream", (status, events.count(b"\n\n")), (200, 3))
    status, body = get(port, f"{DOWNLOAD_PATH}?bytes=1000000", key)
    _expect(name, "a download", (status, len(body)), (200, 1_000_000))
    target = Target(HOST, port, UPLOAD_PATH, key)
    _expect(name, "an upload", upload(target, 1_000_000), 1_000_000)


def _expect_identity(name: str, seen: dict[str, Any], credentials: Credentials) -> None:
    # Compared here, not by _expect: its message would show the key.
    if seen.pop("credential"):
        raise BenchError(f"{name} passes the key on to the upstream")
    tenant = credentials.tenant
    wanted = {
        "organization": tenant.organization_id,
        "user": tenant.user_id,
        "role": tenant.role,
        "method": "api_key",
        "key_id": credentials.key.id,
    }
    _expect(name, "the identity at the upstream", seen, wanted)


def _expect(name: str, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise BenchError(f"{name}: {what} gave {found!r}, not {wanted!r}")
