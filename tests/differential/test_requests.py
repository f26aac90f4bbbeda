"""What is taken here, h11 and a real nginx take with the same meaning, or not at all.

Two readers that differ in where a request ends are what request smuggling is made of; two that
differ in what its target or host is, what ways around a route are made of.
"""

from __future__ import annotations

import asyncio
import re
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, given, settings

from tests.differential.known import is_beyond_h11
from tests.differential.strict import Unreadable, read_requests
from tests.differential.taken import take
from tests.fuzz.made_up import changed, corpus
from tests.fuzz.requests import listen

if TYPE_CHECKING:
    from tests.differential.nginx import Nginx
    from tests.differential.strict import Request
    from tests.differential.taken import Taken

CORPUS = {path.name: path.read_bytes() for path in corpus("requests")}
CASES = [pytest.param(raw, id=name) for name, raw in CORPUS.items()]
NAMED = {name: raw for name, raw in CORPUS.items() if "-" in name}
"""Those that were written down by hand: what the fuzzer found has a hash for a name."""


class Meaning(NamedTuple):
    """What two readers of one request have to agree on."""

    method: bytes
    target: bytes
    host: bytes | None
    body: bytes


def meanings(requests: list[Request]) -> list[Meaning]:
    return [Meaning(each.method, each.target, each.host, each.body) for each in requests]


def origin_form(target: bytes) -> bytes:
    """Return what an absolute target is forwarded as (RFC 9112 section 3.2.2)."""
    if target.startswith(b"/"):
        return target
    rest = target.partition(b"://")[2]
    place = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    return rest[place:] if rest[place:].startswith(b"/") else b"/" + rest[place:]


def by_h11(raw: bytes) -> list[Meaning]:
    """Return what h11 makes of a client's bytes, up to what it refuses."""
    try:
        requests = read_requests(raw)
    except Unreadable as unreadable:
        requests = unreadable.before
    whole = [each for each in requests if each.is_whole]
    return [each._replace(target=origin_form(each.target)) for each in meanings(whole)]


async def by_nginx(nginx: Nginx, raw: bytes) -> list[Meaning]:
    """Return what nginx makes of them."""
    # It speaks HTTP/0.9, too, whose requests are one line; here they are heads without an end yet.
    understood = takewhile(lambda each: each.version >= b"1", await nginx.read(raw))
    return [Meaning(each.method, each.target, each.host, each.body) for each in understood]


# nginx takes no tab around these values, where RFC 9110 section 5.6.3 has one, and closes after any
# Connection with "close" somewhere in it, where RFC 9110 section 7.6.1 has an option of that name.
_NOT_FOR_NGINX = re.compile(
    rb"^(?:(?:host|content-length|transfer-encoding):(?: *\t|[^\r\n]*\t *\r)"
    rb"|connection:[^\r\n]*close)",
    re.IGNORECASE | re.MULTILINE,
)
# h11 takes no empty line before a request, where RFC 9112 section 2.2 has one, and nothing behind
# one of HTTP/1.0, which may ask for more (RFC 9112 appendix C.2.2).
_NOT_FOR_H11 = re.compile(rb"(?:^|\r\n)[\r\n]+[A-Z]| HTTP/1\.0\r\n")


def check_reading(taken: Taken, theirs: list[Meaning], *, may_refuse: bool) -> None:
    """Check that a reader of the same bytes read the same requests, or fewer where it may."""
    ours = meanings(taken.requests)
    assert theirs[: len(ours)] == ours[: len(theirs)]
    if len(theirs) < len(ours):
        assert may_refuse, f"refused: {ours[len(theirs)]}"
    elif len(theirs) > len(ours):
        assert taken.is_over, f"here unfinished, there whole: {theirs[len(ours)]}"


async def check(nginx: Nginx, raw: bytes) -> Taken:
    """Check what *raw* is to all readers, and what is made of it to the upstream's."""
    taken = await take(raw)
    # Those that are dropped on the way, too.
    trailers = [trailer for each in listen([raw]).heard for trailer in each.trailers]
    check_reading(
        taken,
        by_h11(raw),
        may_refuse=is_beyond_h11(raw, trailers) or bool(_NOT_FOR_H11.search(raw)),
    )
    check_reading(taken, await by_nginx(nginx, raw), may_refuse=bool(_NOT_FOR_NGINX.search(raw)))
    seen = []
    for carried in taken.forwarded:
        seen += await nginx.read(carried)
    if not _NOT_FOR_NGINX.search(b"".join(taken.forwarded)):
        assert [Meaning(each.method, each.target, each.host, each.body) for each in seen] == (
            meanings(taken.requests)
        )
    for each in seen:
        # Decoded and normalised there, and no segment of it went another way.
        assert each.path == unquote_to_bytes(each.target.partition(b"?")[0])
    return taken


@pytest.mark.parametrize("raw", CASES)
async def test_what_is_taken_here_others_take_with_the_same_meaning(
    nginx: Nginx, raw: bytes
) -> None:
    await check(nginx, raw)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed("requests"))
def test_what_is_made_up_and_taken_others_take_with_the_same_meaning(
    nginx: Nginx, raw: bytes
) -> None:
    asyncio.run(check(nginx, raw))


# Where others take what is refused here: by the names in the corpus, with what gives us the right.
STRICTER = {
    "bad_host-*": "RFC 9110 section 7.2, RFC 9112 section 3.2: exactly one Host, and a valid one",
    "bad_method-connect*": "RFC 9110 section 9.3.6: this is no tunnel",
    "bad_method-trace": "RFC 9110 section 9.3.8: it would tell what the upstream alone is told",
    "bad_target-asterisk": "RFC 9112 section 3.2.4: it belongs to no route",
    "bad_target-authority": "RFC 9112 section 3.2.3: for CONNECT alone",
    "bad_target-another-scheme": "RFC 9110 section 4.2: http and https alone",
    "bad_target-file": "RFC 9110 section 4.2: http and https alone",
    "bad_target-no-slash": "RFC 9112 section 3.2.1: a path begins with a slash",
    "bad_target-fragment*": "RFC 9112 section 3.2: a target has none",
    "bad_target-beyond-ascii*": "RFC 3986 section 2: a URI's characters are ASCII",
    "bad_target-cut-escape": "RFC 3986 section 2.1: an escape has two digits",
    "bad_target-dot-segment*": "RFC 3986 section 6.2.2.3: whoever removes them reads another path",
    "bad_target-double-slash*": "RFC 3986 section 6.2: whoever merges them reads another path",
    "bad_target-encoded-slash": "RFC 3986 section 2.2: whoever decodes it reads another path",
    "bare-lf-*": "RFC 9112 section 2.2: a line may be taken to end in LF alone, or not",
    "cl-te": "RFC 9112 section 6.1: may be refused, and ought to be",
    "te-cl": "RFC 9112 section 6.1: may be refused, and ought to be",
    "te-http10": "RFC 9112 section 6.1: to be treated as faulty",
    "one-length-twice": "RFC 9112 section 6.3: may be refused",
    "lengths-in-a-list": "RFC 9112 section 6.3: may be refused",
    "obs-fold*": "RFC 9112 section 5.2: to be refused, or replaced",
    "fold-in-te": "RFC 9112 section 5.2: to be refused, or replaced",
    "space-before-name": "RFC 9112 section 2.2: to be refused, or its line dropped",
    "no-colon": "RFC 9112 section 5: no field line",
    "control-in-value": "RFC 9110 section 5.5: may be refused",
    "delete-in-value": "RFC 9110 section 5.5: may be refused",
    "two-spaces": "RFC 9112 section 3: a single space",
    "space-at-end": "RFC 9112 section 3: a single space, and none at the end",
    "method-*": "RFC 9110 section 9.1: methods that nobody registered are not taken",
    "version-*": "RFC 9110 section 2.5: 1.0 and 1.1 are spoken here",
    "no-version": "RFC 9112 section 3: HTTP/0.9 is not spoken here",
    "http2-preface": "RFC 9113 section 3.4: HTTP/2 is not spoken here",
    "lf-*": "RFC 9112 section 7.1: lines of the chunked framing end in CRLF",
    "cr-*": "RFC 9112 section 2.2: a bare CR is refused",
    "nul-in-extension": "RFC 9112 section 7.1.1: no character of an extension",
    "trailer-*": "RFC 9112 section 7.1.2: a trailer is a field line",
    "rfc9112-3.2.3-authority-form": "RFC 9110 section 9.3.6: this is no tunnel",
    "rfc9112-3.2.4-asterisk-form": "RFC 9112 section 3.2.4: it belongs to no route",
}


async def test_where_others_take_what_is_refused_here_a_standard_gives_the_right(
    nginx: Nginx,
) -> None:
    used = set()
    for name, raw in NAMED.items():
        taken = await take(raw)
        theirs = max(len(by_h11(raw)), len(await nginx.read(raw)))
        if theirs > len(taken.requests):
            rights = [pattern for pattern in STRICTER if fnmatchcase(name, pattern)]
            assert rights, name
            used.update(rights)
    assert used == set(STRICTER)
