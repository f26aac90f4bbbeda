"""A session in use is moved when it gets old, once, and its cookie is set again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from sidecar import errors
from sidecar.auth.credentials import Presented
from sidecar.auth.renewal import Terms
from sidecar.identity import Identity
from sidecar.observe.catalogue import RENEWALS
from sidecar.store.base import Account, WriteRefused
from tests.auth.scene import ACCOUNT, ANY, TOKEN, Scene, signed, with_key, with_session
from tests.auth.session_data import compact, payload
from tests.harness import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DAY_S = 86_400.0
TERMS = Terms(7 * DAY_S, DAY_S)
DUE_S = 6 * DAY_S
"""A session with so much left is due."""
VALUE = quote(signed(TOKEN), safe="").encode()
SET = (
    b"\r\nSet-Cookie: better-auth.session_token=%b; Max-Age=604800; Path=/; HttpOnly; SameSite=Lax"
)
PRIVATE = b"\r\nCache-Control: private"


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene(renewal=TERMS)
    yield scene
    await scene.close()


def put(scene: Scene, left_s: float = DUE_S, **changes: Any) -> None:
    """Store a session with so much left."""
    expires_at = scene.clock.time() + left_s
    scene.put_session(expires_at=expires_at, written_expiry=expires_at, **changes)


async def test_a_session_that_is_due_is_moved_and_its_cookie_is_set_again(scene: Scene) -> None:
    put(scene)
    presented = with_session()
    await scene.admit(presented)
    assert presented.set_cookie == SET % VALUE + PRIVATE
    await scene.close()
    (renewal,) = scene.store.renewed
    assert renewal.session_id == "session-1"
    assert renewal.written_expiry == scene.clock.time() + DUE_S
    assert renewal.expires_at == scene.clock.time() + 7 * DAY_S
    assert renewal.updated_at == scene.clock.time()


async def test_a_session_that_is_not_due_is_left_alone(scene: Scene) -> None:
    put(scene, DUE_S + 1)
    presented = with_session()
    await scene.admit(presented)
    await scene.close()
    assert presented.set_cookie == b""
    assert scene.store.renewed == []


async def test_no_session_is_moved_unless_it_is_wanted() -> None:
    scene = Scene()
    put(scene)
    presented = with_session()
    await scene.admit(presented)
    await scene.close()
    assert presented.set_cookie == b""
    assert scene.store.renewed == []


async def test_a_session_becomes_due_while_it_is_in_memory(scene: Scene) -> None:
    """However often it is asked for, and although nothing of it is read again."""
    put(scene, DUE_S + 0.2)
    presented = with_session()
    await scene.admit(presented)
    for _ in range(3):
        assert isinstance(scene.from_memory(presented), Identity)
    queries = scene.store.queries
    scene.clock.advance(0.2)
    assert isinstance(scene.from_memory(presented), Identity)
    assert presented.set_cookie == SET % VALUE + PRIVATE
    assert scene.store.queries == queries


async def test_others_of_the_same_session_do_not_repeat_it(scene: Scene) -> None:
    put(scene)
    requests = [with_session() for _ in range(20)]
    pending = [scene.look(presented) for presented in requests]
    assert pending
    await scene.idle()
    for presented in (*requests, *[with_session() for _ in range(20)]):
        assert isinstance(scene.from_memory(presented), Identity)
        requests.append(presented)
    scene.clock.advance(0.7)
    again = with_session()
    assert isinstance(scene.from_memory(again), Identity)
    await scene.close()
    assert sum(bool(each.set_cookie) for each in {id(p): p for p in requests}.values()) == 1
    assert again.set_cookie == b""
    assert len(scene.store.renewed) == 1


async def test_a_session_is_moved_again_when_it_is_due_again(scene: Scene) -> None:
    put(scene)
    await scene.admit(with_session())
    await until(lambda: len(scene.store.renewed) == 1)
    scene.clock.advance(DAY_S - 1)
    early = with_session()
    await scene.admit(early)
    assert early.set_cookie == b""
    scene.clock.advance(1)
    again = with_session()
    await scene.admit(again)
    assert again.set_cookie
    await until(lambda: len(scene.store.renewed) == 2)


async def test_a_session_that_is_gone_is_not_brought_back(scene: Scene) -> None:
    put(scene)
    await scene.admit(with_session())
    scene.store.remove_session(TOKEN)
    await scene.close()
    assert scene.store.renewed == []


async def test_a_session_that_was_changed_since_is_left_as_it_is(scene: Scene) -> None:
    put(scene)
    await scene.admit(with_session())
    put(scene, 60)
    await scene.close()
    assert scene.store.renewed == []


@pytest.mark.parametrize("left_s", [0.0, -1.0])
async def test_a_session_that_has_ended_is_not_moved(scene: Scene, left_s: float) -> None:
    put(scene, left_s)
    presented = with_session()
    assert await scene.refuse(presented) is errors.SESSION_EXPIRED
    assert presented.set_cookie == b""


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        pytest.param({"account": replace(ACCOUNT, banned=True)}, errors.USER_BANNED, id="banned"),
        pytest.param({"active_organization_id": "left"}, errors.NOT_A_MEMBER, id="no-member"),
        pytest.param({"account": Account("ada", roles={"acme": "guest"})}, None, id="role-missing"),
    ],
)
async def test_who_is_refused_keeps_no_session_alive(
    scene: Scene, changes: dict[str, Any], refusal: errors.Refusal | None
) -> None:
    put(scene, **changes)
    presented = with_session()
    demand = replace(ANY, roles=frozenset({"owner"}))
    assert await scene.refuse(presented, demand) is (refusal or errors.ROLE_MISSING)
    assert presented.set_cookie == b""
    await scene.close()
    assert scene.store.renewed == []


async def test_a_store_that_tells_no_expiry_to_move_is_not_asked_to(scene: Scene) -> None:
    scene.put_session(expires_at=scene.clock.time() + DUE_S)
    presented = with_session()
    await scene.admit(presented)
    assert presented.set_cookie == b""


async def test_a_session_that_a_cookie_tells_of_is_not_moved() -> None:
    scene = Scene(renewal=TERMS, cookie_cache="compact")
    scene.store.put_account(ACCOUNT)
    said = payload(scene.clock, expiresAt="2027-01-16T08:00:00.000Z")
    presented = with_session()
    data = compact(said, scene.clock.time() + 60)
    presented.cookies = [presented.cookies[0] + b"; better-auth.session_data=" + data]
    await scene.admit(presented)
    assert isinstance(scene.from_memory(presented), Identity)
    assert presented.set_cookie == b""
    await scene.close()


async def test_a_key_has_nothing_to_renew(scene: Scene) -> None:
    scene.put_key()
    put(scene)
    both = with_session()
    both.api_keys = with_key(
        "kuOYVbKqNRmZcjHvdWfTgsEiPxLAaQyDpBzMhJnwXlCrtFeGSIoUkuOYVbKqNRmZ"
    ).api_keys
    await scene.admit(both)
    assert both.set_cookie == b""


class TestNotToBeRemembered:
    """Whoever chose that the browser forgets the session has it end when it was to end."""

    @pytest.mark.parametrize(
        ("cookie", "moved"),
        [
            pytest.param(b"better-auth.dont_remember=" + signed("true").encode(), False, id="raw"),
            pytest.param(
                b"better-auth.dont_remember=" + quote(signed("true"), safe="").encode(),
                False,
                id="encoded",
            ),
            pytest.param(
                b"better-auth.dont_remember=" + signed("true", b"another secret").encode(),
                True,
                id="of-another-secret",
            ),
            pytest.param(b"better-auth.dont_remember=true", True, id="unsigned"),
            pytest.param(
                b"__Secure-better-auth.dont_remember=" + signed("true").encode(),
                True,
                id="of-another-guard",
            ),
            pytest.param(b"dont_remember=" + signed("true").encode(), True, id="of-no-prefix"),
        ],
    )
    async def test_a_signed_cookie_says_so(self, scene: Scene, cookie: bytes, moved: bool) -> None:
        put(scene)
        presented = with_session()
        presented.cookies = [presented.cookies[0] + b"; " + cookie]
        await scene.admit(presented)
        assert bool(presented.set_cookie) is moved
        await scene.close()
        assert bool(scene.store.renewed) is moved


class TestTheCookie:
    @pytest.mark.parametrize(
        ("cookies", "terms", "set_cookie"),
        [
            pytest.param(
                [b"__Secure-better-auth.session_token=%b"],
                TERMS,
                b"__Secure-better-auth.session_token=%b; Max-Age=604800; Path=/; HttpOnly; Secure;"
                b" SameSite=Lax",
                id="secure-by-its-name",
            ),
            pytest.param(
                [b"__Host-better-auth.session_token=%b"],
                replace(TERMS, domain=".example.test"),
                b"__Host-better-auth.session_token=%b; Max-Age=604800; Path=/; HttpOnly; Secure;"
                b" SameSite=Lax",
                id="of-this-host-alone",
            ),
            pytest.param(
                [b"better-auth.session_token=%b"],
                replace(TERMS, domain=".example.test", same_site="strict", secure=True),
                b"better-auth.session_token=%b; Max-Age=604800; Domain=.example.test; Path=/;"
                b" HttpOnly; Secure; SameSite=Strict",
                id="as-configured",
            ),
            pytest.param(
                [b"better-auth.session_token=%b"],
                replace(TERMS, same_site="none"),
                b"better-auth.session_token=%b; Max-Age=604800; Path=/; HttpOnly; Secure;"
                b" SameSite=None",
                id="for-other-sites-it-must-be-secure",
            ),
            pytest.param(
                [
                    b"a=b; better-auth.session_token=x",
                    b"__Secure-better-auth.session_token=%b; c=d",
                ],
                TERMS,
                b"__Secure-better-auth.session_token=%b; Max-Age=604800; Path=/; HttpOnly; Secure;"
                b" SameSite=Lax",
                id="the-one-that-decided",
            ),
        ],
    )
    async def test_it_is_set_as_better_auth_sets_it(
        self, cookies: list[bytes], terms: Terms, set_cookie: bytes
    ) -> None:
        scene = Scene(renewal=terms)
        put(scene)
        lines = [line % VALUE if b"%b" in line else line for line in cookies]
        presented = Presented(cookies=lines)
        await scene.admit(presented)
        assert presented.set_cookie == b"\r\nSet-Cookie: " + set_cookie % VALUE + PRIVATE
        await scene.close()

    @pytest.mark.parametrize("value", [signed(TOKEN).encode(), b'"%b"' % VALUE])
    async def test_its_value_stays_as_it_came(self, scene: Scene, value: bytes) -> None:
        put(scene)
        presented = Presented(cookies=[b"better-auth.session_token=" + value])
        await scene.admit(presented)
        assert presented.set_cookie == SET % value + PRIVATE

    async def test_its_name_may_be_its_own(self) -> None:
        scene = Scene(renewal=TERMS, cookie_name="__Secure-studio_sid")
        put(scene)
        presented = Presented(cookies=[b"studio_sid=" + VALUE])
        await scene.admit(presented)
        assert presented.set_cookie.startswith(b"\r\nSet-Cookie: studio_sid=%b; " % VALUE)
        await scene.close()


def outcomes(scene: Scene) -> dict[str, float]:
    return {
        sample.labels[0]: sample.value[0]
        for sample in scene.authenticator.samples()
        if sample.metric is RENEWALS
    }


async def test_what_became_of_those_that_were_due_is_counted(scene: Scene) -> None:
    put(scene)
    await scene.admit(with_session())
    await until(lambda: outcomes(scene) == {"renewed": 1, "overtaken": 0, "failed": 0})

    scene.clock.advance(2 * DAY_S)
    await scene.admit(with_session())
    put(scene, DUE_S - 1)
    await until(lambda: outcomes(scene) == {"renewed": 1, "overtaken": 1, "failed": 0})

    scene.clock.advance(DAY_S)
    scene.store.broken = None
    await scene.admit(with_session())
    scene.store.broken = WriteRefused("GRANT UPDATE")
    await until(lambda: outcomes(scene) == {"renewed": 1, "overtaken": 1, "failed": 1})


async def test_nothing_is_counted_where_nothing_is_renewed() -> None:
    scene = Scene()
    assert outcomes(scene) == {}
    await scene.close()


class TestTrouble:
    async def test_a_store_that_fails_is_asked_again_and_costs_no_request(
        self, scene: Scene
    ) -> None:
        put(scene)
        await scene.admit(with_session())
        scene.store.available = False
        await until(lambda: scene.store.queries == 2)
        assert isinstance(scene.from_memory(with_session()), Identity)
        scene.store.available = True
        await scene.close()
        assert len(scene.store.renewed) == 1

    async def test_a_store_that_refuses_has_no_cookies_set(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        put(scene)
        first = with_session()
        await scene.admit(first)
        assert first.set_cookie
        scene.store.broken = WriteRefused("GRANT UPDATE")
        await until(lambda: caplog.messages)
        scene.store.broken = None
        put(scene, DUE_S - 1)
        scene.clock.advance(1)
        later = with_session()
        await scene.admit(later)
        assert later.set_cookie == b""
        assert caplog.messages == ["renewal of sessions: not done for now: GRANT UPDATE"]

    async def test_what_was_refused_is_tried_again_when_a_right_may_have_been_granted(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        put(scene)
        await scene.admit(with_session())
        scene.store.broken = WriteRefused("GRANT UPDATE")
        await until(lambda: caplog.messages)
        scene.store.broken = None
        scene.clock.advance(60)
        again = with_session()
        await scene.admit(again)
        assert again.set_cookie
        await scene.close()
        assert len(scene.store.renewed) == 1
