"""Requests that differ from one to the next, as those of many clients behind one front proxy do."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from bench.load.requests import Target
from bench.peers.base import MIXED_KEYS
from bench.upstream.static import ITEM_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.credentials import ApiKey

COUNT = 256
"""How many different requests there are before the first comes again."""

_BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/142.0.0.0 Safari/537.36",
    "Accept": "application/json, text/plain, */*",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "http://app.example.test/conversations",
    "Sec-Fetch-Dest": "empty",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "same-origin",
    "Cookie": "theme=dark; consent=1",
}
_LIBRARY = {
    "user-agent": "example-sdk/2.7.1 python/3.13.0",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "x-stainless-retry-count": "0",
}
_SERVICE = {
    "User-Agent": "Go-http-client/1.1",
    "Accept-Encoding": "gzip",
    "Content-Type": "application/json",
}
_SHELL = {"User-Agent": "curl/8.14.1", "Accept": "*/*"}
_CLIENTS: Sequence[Mapping[str, str]] = (_BROWSER, _LIBRARY, _SERVICE, _SHELL)


def mixed_targets(host: str, port: int, keys: Sequence[ApiKey]) -> list[Target]:
    """Return COUNT requests of several kinds of client, keys and paths, no two alike.

    All but the shell's carry a trace id of their own, as traced clients' requests do, so that their
    heads differ even where the rest is the same.
    """
    numbers = random.Random(1)
    targets = []
    for number in range(COUNT):
        client = _CLIENTS[number % len(_CLIENTS)]
        key = keys[number // len(_CLIENTS) % min(MIXED_KEYS, len(keys))]
        headers = {**client, "x-api-key": key.raw}
        if client is not _SHELL:
            trace, span = numbers.getrandbits(128), numbers.getrandbits(64)
            headers["traceparent"] = f"00-{trace:032x}-{span:016x}-01"
        path = f"{ITEM_PATH}/{numbers.randrange(10**6)}?page={number}"
        targets.append(Target(host, port, path, headers))
    numbers.shuffle(targets)
    return targets
