"""What changes in Better Auth's database holds here within a second, and nothing else does."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.clock import ManualClock
from tests.harness import request, running
from tests.sockets.world import cookie_line, key_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sockets.world import World

Case: TypeAlias = "tuple[Callable[[World], None], int, str]"

FRESH_S = 1.0
NEGATIVE_S = 10.0
NOT_A_MEMBER = "Not a member of the selected organization"


def leave_acme(world: World) -> None:
    world.database.execute('DELETE FROM member WHERE "userId" = ?', (world.ada,))


def delete_acme(world: World) -> None:
    world.database.remove("organization", world.acme)


def switch_to_globex(world: World) -> None:
    world.database.change("session", world.session.id, activeOrganizationId=world.globex)


KEY_CHANGES: dict[str, Case] = {
    "revoked": (lambda w: w.database.remove("apikey", w.key.id), 401, "Invalid API key"),
    "disabled": (
        lambda w: w.database.change("apikey", w.key.id, enabled=False),
        *(401, "Invalid API key"),
    ),
    "expired": (
        lambda w: w.database.change("apikey", w.key.id, expiresAt=1_600_000_000),
        *(401, "Invalid API key"),
    ),
    "owner-left": (leave_acme, 403, NOT_A_MEMBER),
    "organization-deleted": (delete_acme, 403, NOT_A_MEMBER),
    "owner-banned": (
        lambda w: w.database.change("user", w.ada, banned=True),
        *(403, "Forbidden"),
    ),
    "used-up": (
        lambda w: w.database.change("apikey", w.key.id, remaining=0),
        *(429, "Rate limit exceeded"),
    ),
    "limit-lowered": (
        lambda w: w.database.change("apikey", w.key.id, rateLimitMax=1),
        *(429, "Rate limit exceeded"),
    ),
    "other-organization": (
        lambda w: w.database.change("apikey", w.key.id, metadata={"organizationId": w.globex}),
        *(403, NOT_A_MEMBER),
    ),
}
SESSION_CHANGES: dict[str, Case] = {
    "signed-out": (
        lambda w: w.database.remove("session", w.session.id),
        *(401, "Unauthorized"),
    ),
    "expired": (
        lambda w: w.database.change("session", w.session.id, expiresAt=1_600_000_000),
        *(401, "Unauthorized"),
    ),
    "left": (leave_acme, 403, NOT_A_MEMBER),
    "organization-deleted": (delete_acme, 403, NOT_A_MEMBER),
    "switched-to-a-foreign-one": (switch_to_globex, 403, NOT_A_MEMBER),
    "banned": (lambda w: w.database.change("user", w.ada, banned=True), 403, "Forbidden"),
}


@pytest.mark.parametrize(
    ("carrier", "case"),
    [
        pytest.param(carrier, case, id=f"{carrier}-{name}")
        for carrier, cases in (("key", KEY_CHANGES), ("cookie", SESSION_CHANGES))
        for name, case in cases.items()
    ],
)
@pytest.mark.parametrize("busy", [True, False], ids=["in-steady-use", "after-a-pause"])
async def test_a_change_is_seen_within_a_second(
    world: World, carrier: str, case: Case, busy: bool
) -> None:
    change, status, error = case
    clock = ManualClock(time.time())
    line = world.key_line if carrier == "key" else world.cookie_line
    asking = request(b"GET /v1/chat", line)
    async with running(world.path, clock=clock) as run:
        client = await run.connect()
        for _ in range(3):
            assert (await client.ask(asking)).status == 200
        change(world)
        if busy:
            # Uses on the way, which have it read again, do not put it off.
            for _ in range(9):
                clock.advance(FRESH_S / 10)
                await client.ask(asking)
            clock.advance(FRESH_S / 10)
        else:
            clock.advance(FRESH_S)
        # On a connection that it was good on, and on a new one.
        for response in (await client.ask(asking), await run.ask(asking)):
            assert (response.status, response.json()["error"]) == (status, error)


async def test_what_becomes_good_is_seen_in_time(world: World) -> None:
    clock = ManualClock(time.time())
    late = world.database.add_key(world.ada, world.acme, enabled=False)
    bob = world.database.add_user()
    session = world.database.add_session(bob, world.acme)
    async with running(world.path, clock=clock) as run:
        by_key = request(b"GET /v1/chat", key_line(late))
        by_cookie = request(b"GET /v1/chat", cookie_line(session))
        assert (await run.ask(by_key)).status == 401
        assert (await run.ask(by_cookie)).status == 403
        world.database.change("apikey", late.id, enabled=True)
        world.database.add_member(bob, world.acme, role="admin")
        clock.advance(FRESH_S)
        assert (await run.ask(by_key)).status == 200
        assert (await run.ask(by_cookie)).status == 200
        assert run.upstream.last.values("x-organization-role") == [b"admin"]


async def test_a_key_made_after_it_was_tried_works_once_it_is_not_unknown_any_more(
    world: World,
) -> None:
    clock = ManualClock(time.time())
    raw = "early" * 13
    asking = request(b"GET /v1/chat", b"x-api-key: " + raw.encode())
    async with running(world.path, clock=clock) as run:
        assert (await run.ask(asking)).status == 401
        world.database.add_key(world.ada, world.acme, raw=raw)
        clock.advance(NEGATIVE_S + FRESH_S)
        assert (await run.ask(asking)).status == 200


async def test_a_limit_is_exact_however_many_come_at_once(world: World) -> None:
    limited = world.database.add_key(world.ada, world.acme, rateLimitMax=100)
    async with running(world.path) as run:

        async def ask() -> tuple[int, str | None]:
            response = await run.ask(request(b"GET /v1/chat", key_line(limited)))
            return response.status, response.value("x-ratelimit-limit")

        answers = Counter(await asyncio.gather(*(ask() for _ in range(150))))
        assert answers == {(200, "100"): 100, (429, "100"): 50}
        assert len(run.upstream.requests) == 100
