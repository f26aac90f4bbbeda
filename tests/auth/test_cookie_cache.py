"""Cookies that hold a session: what Better Auth wrote is read, and nothing else is believed."""

from __future__ import annotations

import base64
import hmac
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.auth.cookie_cache import CachedSession, CookieCache, Form
from sidecar.auth.cookies import CHUNKS, DATA_BYTES, SessionCookies
from sidecar.auth.signatures import Signatures
from tests import betterauth
from tests.auth.scene import SECRET, TOKEN
from tests.auth.session_data import FORMS, compact, encrypted, jwt, payload
from tests.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

EACH_FORM = pytest.mark.parametrize("form", get_args(Form))
ENDS_AT = 1_900_000_000.0
CLOCK = ManualClock()
RECORDED = json.loads(
    (Path(betterauth.__file__).parent / "data" / "betterauth" / "session-data.json").read_bytes()
)
COOKIES = SessionCookies("better-auth")
NAME = b"better-auth.session_data"
TOKEN_COOKIE = b"better-auth.session_token=x; "


def cache(form: Form, *secrets: bytes, version: str = "1") -> CookieCache:
    return CookieCache(form, secrets or (SECRET,), version)


def written(form: Form, said: dict[str, Any] | None = None, secret: bytes = SECRET) -> bytes:
    return FORMS[form](payload(CLOCK) if said is None else said, ENDS_AT, secret)


def recorded() -> list[Any]:
    return [pytest.param(each, id=f"{each['form']}-{each['id']}") for each in RECORDED["cookies"]]


@pytest.mark.parametrize("each", recorded())
def test_what_better_auth_wrote_is_read_whatever_stands_in_it(each: dict[str, Any]) -> None:
    pairs = "; ".join(f"{name}={value}" for name, value in reversed(each["cookies"].items()))
    value = COOKIES.find_data([TOKEN_COOKIE + pairs.encode()])
    assert value is not None
    secrets = [RECORDED["secret"].encode(), each.get("secret", "another secret").encode()]
    read = CookieCache(each["form"], secrets, each.get("version", "1")).read(
        value, RECORDED["token"]
    )
    assert read is not None
    assert (read.id, read.user_id, read.expires_at) == ("session-1", "ada", 4_102_444_799)
    assert 1_829_456_000 < read.stands_until < 1_829_458_000
    expected = None if each["id"] == "no-active-organization" else "acme"
    assert read.active_organization_id == expected


@EACH_FORM
def test_a_session_is_read_with_all_that_is_needed_of_it(form: Form) -> None:
    assert cache(form).read(written(form), TOKEN) == CachedSession(
        "session-1", "ada", 4_102_444_799.0, ENDS_AT, "acme"
    )


@EACH_FORM
def test_a_cookie_never_stands_for_longer_than_its_session(form: Form) -> None:
    said = payload(CLOCK, expiresAt="2027-01-15T08:00:00.000Z")
    read = cache(form).read(written(form, said), TOKEN)
    assert read is not None
    assert read.expires_at == read.stands_until == 1_800_000_000


@EACH_FORM
def test_each_secret_may_have_made_it(form: Form) -> None:
    old = b"the secret before this one"
    assert cache(form, SECRET, old).read(written(form, secret=old), TOKEN)
    assert cache(form, old, SECRET).read(written(form), TOKEN)
    assert cache(form, SECRET).read(written(form, secret=old), TOKEN) is None


@EACH_FORM
@pytest.mark.parametrize(
    ("version", "expected", "good"),
    [
        pytest.param("2", "2", True, id="the-same"),
        pytest.param("2", "1", False, id="another"),
        pytest.param(None, "1", True, id="none-is-1"),
        pytest.param("", "1", True, id="empty-is-1"),
        pytest.param(1, "1", False, id="no-text"),
    ],
)
def test_a_cookie_of_another_version_is_not_believed(
    form: Form, version: object, expected: str, good: bool
) -> None:
    said = payload(CLOCK) | {"version": version}
    read = cache(form, version=expected).read(written(form, said), TOKEN)
    assert (read is not None) is good


@EACH_FORM
def test_the_first_versions_cookie_has_neither_version_nor_date(form: Form) -> None:
    said = {name: payload(CLOCK)[name] for name in ("session", "user")}
    assert cache(form).read(written(form, said), TOKEN)


@EACH_FORM
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"token": "another"}, id="another-token"),
        pytest.param({"token": ""}, id="empty-token"),
        pytest.param({"token": None}, id="no-token"),
        pytest.param({"token": TOKEN + "\ud800"}, id="token-without-an-encoding"),
        pytest.param({"userId": None}, id="no-user"),
        pytest.param({"userId": ""}, id="empty-user"),
        pytest.param({"userId": ["ada"]}, id="a-list-of-users"),
        pytest.param({"userId": True}, id="true-is-no-user"),
        pytest.param({"id": None}, id="no-id"),
        pytest.param({"expiresAt": None}, id="no-end"),
        pytest.param({"expiresAt": "soon"}, id="an-end-that-is-no-date"),
        pytest.param({"expiresAt": 4102444799000}, id="an-end-that-is-no-text"),
        pytest.param({"activeOrganizationId": {"id": "acme"}}, id="no-organization-id"),
    ],
)
def test_a_session_that_is_not_whole_or_not_the_tokens_is_not_believed(
    form: Form, changes: dict[str, object]
) -> None:
    assert cache(form).read(written(form, payload(CLOCK, **changes)), TOKEN) is None


@pytest.mark.parametrize("user", ["userId", "id", "activeOrganizationId"])
def test_ids_may_be_numbers(user: str) -> None:
    read = cache("compact").read(written("compact", payload(CLOCK, **{user: 7})), TOKEN)
    assert read is not None
    assert "7" in (read.id, read.user_id, read.active_organization_id)


@EACH_FORM
@pytest.mark.parametrize(
    "said", [[], "text", 1, None, {}, {"session": None}, {"session": []}], ids=repr
)
def test_anything_but_a_session_is_not_believed(form: Form, said: Any) -> None:
    if form == "compact":
        text = json.dumps(said)
        assert cache(form).read(_compact_of(text), TOKEN) is None
    elif isinstance(said, dict):
        assert cache(form).read(written(form, said), TOKEN) is None


def _compact_of(text: str) -> bytes:
    raw = f'{{"session":{text},"expiresAt":1,"signature":"{"A" * 43}"}}'
    return base64.urlsafe_b64encode(raw.encode()).rstrip(b"=")


@EACH_FORM
def test_no_byte_may_be_another(form: Form) -> None:
    """All that is given is signed or authenticated, and can be written in one way alone."""
    good, reader = written(form), cache(form)
    assert reader.read(good, TOKEN)
    for at, byte in enumerate(good):
        for other in {byte ^ 1, byte ^ 2, byte ^ 0x20, byte ^ 0x80, ord("A"), ord("="), ord(".")}:
            if other != byte:
                altered = good[:at] + bytes([other]) + good[at + 1 :]
                assert reader.read(altered, TOKEN) is None, at


@EACH_FORM
def test_no_byte_may_be_missing_or_added(form: Form) -> None:
    good, reader = written(form), cache(form)
    for at in range(len(good) + 1):
        assert at == len(good) or reader.read(good[:at] + good[at + 1 :], TOKEN) is None
        assert at == len(good) or reader.read(good[:at], TOKEN) is None
        for added in (b"A", b"=", b".", b" ", b"\n"):
            assert reader.read(good[:at] + added + good[at:], TOKEN) is None


@pytest.mark.parametrize("folder", [name for name in betterauth.COOKIES if "cache-" in name])
def test_no_byte_of_better_auths_own_may_be_another(folder: str) -> None:
    (case,) = [case for case in betterauth.load_cases(folder) if case.id == "cache-good"]
    form = betterauth.config(folder)["cookieCache"]["strategy"]
    line, secret = str(case.credential).encode(), case.secret.encode()
    session = COOKIES.find([line])
    value = COOKIES.find_data([line])
    assert session is not None
    assert value is not None
    token = Signatures([secret]).signed_text(session)
    assert token is not None
    reader = cache(form, secret)
    assert reader.read(value, token)
    for at, byte in enumerate(value):
        altered = value[:at] + (b"B" if byte == ord("A") else b"A") + value[at + 1 :]
        assert reader.read(altered, token) is None, at


class TestAlgorithms:
    """The site says how its tokens are protected; a token does not."""

    @pytest.mark.parametrize("alg", ["none", "HS384", "HS512"])
    def test_a_jwt_by_another_algorithm_is_not_believed(self, alg: str) -> None:
        header = base64.urlsafe_b64encode(json.dumps({"alg": alg}).encode()).rstrip(b"=")
        good = jwt(payload(CLOCK), ENDS_AT)
        _, claims, signature = good.split(b".")
        for signed in (signature, b""):
            assert cache("jwt").read(b".".join((header, claims, signed)), TOKEN) is None
        if alg != "none":
            assert cache("jwt").read(jwt(payload(CLOCK), ENDS_AT, alg=alg), TOKEN) is None

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param({"enc": "A256GCM"}, id="another-encryption"),
            pytest.param({"zip": "DEF"}, id="compressed"),
        ],
    )
    def test_a_jwe_by_another_algorithm_is_not_believed(self, header: dict[str, Any]) -> None:
        assert cache("jwe").read(encrypted(payload(CLOCK), ENDS_AT, **header), TOKEN) is None

    @pytest.mark.parametrize("field", ["cty", "jku", "x5u"])
    @pytest.mark.parametrize("form", ["jwt", "jwe"])
    def test_a_header_that_asks_for_more_is_not_believed(self, form: Form, field: str) -> None:
        header: dict[str, Any] = {field: "https://keys.example.test"}
        made = {"jwt": jwt, "jwe": encrypted}[form]
        value = made(payload(CLOCK), ENDS_AT, **header)
        assert cache(form).read(value, TOKEN) is None

    def test_a_jwe_with_an_encrypted_key_is_not_believed(self) -> None:
        """RFC 7518 section 4.5: there is none. Nothing authenticates this part but its absence."""
        good = encrypted(payload(CLOCK), ENDS_AT)
        for key in (b"AAAA", b"e30"):
            assert cache("jwe").read(good.replace(b"..", b".%b." % key), TOKEN) is None

    def test_who_made_a_token_may_name_its_key(self) -> None:
        value = encrypted(payload(CLOCK), ENDS_AT, kid="any", typ="JWT")
        assert cache("jwe").read(value, TOKEN)

    @EACH_FORM
    @pytest.mark.parametrize("other", get_args(Form))
    def test_a_site_has_one_form(self, form: Form, other: Form) -> None:
        assert (cache(form).read(written(other), TOKEN) is not None) is (form == other)

    @pytest.mark.parametrize("ends_at", [None, "1900000000", True, float("nan"), float("inf")])
    @pytest.mark.parametrize("form", ["jwt", "jwe"])
    def test_a_token_without_an_end_is_not_believed(self, form: Form, ends_at: Any) -> None:
        assert cache(form).read(FORMS[form](payload(CLOCK), ends_at), TOKEN) is None

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param(b"[]", id="a-list"),
            pytest.param(b'"alg"', id="text"),
            pytest.param(b"null", id="null"),
            pytest.param(b'{"alg":["HS256"]}', id="a-list-of-algorithms"),
            pytest.param(b"{", id="no-json"),
            pytest.param(b"\xff", id="no-text"),
            pytest.param(b"[" * 20_000, id="nested"),
            pytest.param(b"", id="empty"),
        ],
    )
    @EACH_FORM
    def test_a_header_that_is_none_is_met_with_calm(self, form: Form, header: bytes) -> None:
        segment = base64.urlsafe_b64encode(header).rstrip(b"=")
        for rest in (b".e30.A", b"..A.A.A", b""):
            assert cache(form).read(segment + rest, TOKEN) is None


@EACH_FORM
@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail(form: Form, value: bytes) -> None:
    assert cache(form).read(value, TOKEN) is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(json_values, st.integers(0, 2**53))
def test_whatever_a_site_adds_to_a_session_its_cookie_is_read(extra: object, ends_at: int) -> None:
    value = compact(payload(CLOCK, extra=extra) | {"more": extra}, ends_at / 1000)
    read = cache("compact").read(value, TOKEN)
    assert read is not None
    assert read.stands_until == min(ends_at / 1000, read.expires_at)


def test_deeply_nested_data_is_met_with_calm() -> None:
    said = b'{"session":%b}' % (b"[" * 5_000 + b"]" * 5_000)
    value = _signed_compact(said)
    assert len(value) < DATA_BYTES
    assert cache("compact").read(value, TOKEN) is None


def _signed_compact(said: bytes) -> bytes:
    signature = base64.urlsafe_b64encode(
        hmac.digest(SECRET, said[:-1] + b',"expiresAt":1900000000000}', "sha256")
    ).rstrip(b"=")
    raw = b'{"session":%b,"expiresAt":1900000000000,"signature":"%b"}' % (said, signature)
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


class TestFinding:
    """The data stands in one cookie or in numbered chunks, beside the session's own cookie."""

    @pytest.mark.parametrize(
        ("lines", "data"),
        [
            pytest.param([NAME + b"=abc"], b"abc", id="one"),
            pytest.param([NAME + b'="abc"'], b"abc", id="quoted"),
            pytest.param([NAME + b"=a%62c"], b"abc", id="encoded"),
            pytest.param([NAME + b".0=a; " + NAME + b".1=b"], b"ab", id="chunks"),
            pytest.param([NAME + b".1=b; x=y; " + NAME + b".0=a"], b"ab", id="any-order"),
            pytest.param([NAME + b".0=a", NAME + b".1=b"], b"ab", id="on-several-lines"),
            pytest.param(
                [b"; ".join(NAME + b".%d=%d," % (n, n) for n in range(11, -1, -1))],
                b"0,1,2,3,4,5,6,7,8,9,10,11,",
                id="numeric-order",
            ),
            pytest.param([NAME + b".0=%61; " + NAME + b".1=b"], b"ab", id="each-decoded"),
            pytest.param([NAME + b"=whole; " + NAME + b".0=a"], b"whole", id="whole-wins"),
            pytest.param([NAME + b"=; " + NAME + b".0=a"], b"a", id="an-empty-whole-does-not"),
            pytest.param([NAME + b"=1; " + NAME + b"=2"], b"1", id="the-first-counts"),
            pytest.param([NAME + b".0=1; " + NAME + b".0=2"], b"1", id="the-first-chunk-counts"),
            pytest.param([NAME + b".00=a"], None, id="a-number-has-one-spelling"),
            pytest.param([NAME + b".1x=a"], None, id="no-number"),
            pytest.param([NAME + b".-1=a"], None, id="negative"),
            pytest.param([NAME + b"=; a=b"], None, id="empty"),
            pytest.param([b"a=b"], None, id="none"),
            pytest.param([b"__Secure-" + NAME + b"=abc"], None, id="of-another-guard"),
        ],
    )
    def test_it_is_found_as_better_auth_finds_it(
        self, lines: Sequence[bytes], data: bytes | None
    ) -> None:
        assert COOKIES.find_data([TOKEN_COOKIE + lines[0], *lines[1:]]) == data

    def test_it_has_the_guard_of_the_sessions_own_cookie(self) -> None:
        both = b"__Secure-" + NAME + b"=secure; " + NAME + b"=plain; "
        assert COOKIES.find_data([both + TOKEN_COOKIE]) == b"plain"
        assert COOKIES.find_data([both + b"__Secure-" + TOKEN_COOKIE]) == b"secure"
        assert COOKIES.find_data([both + TOKEN_COOKIE + b"__Secure-" + TOKEN_COOKIE]) == b"secure"

    def test_a_session_cookie_with_a_name_of_its_own_has_data_by_the_prefix(self) -> None:
        renamed = SessionCookies("better-auth", "studio_sid")
        assert renamed.find_data([b"studio_sid=x; " + NAME + b"=abc"]) == b"abc"

    def test_it_has_no_more_chunks_than_better_auth_makes(self) -> None:
        chunks = [NAME + b".%d=a" % number for number in range(CHUNKS)]
        assert COOKIES.find_data([TOKEN_COOKIE + b"; ".join(chunks)]) == b"a" * CHUNKS
        chunks.append(NAME + b".%d=a" % CHUNKS)
        assert COOKIES.find_data([TOKEN_COOKIE + b"; ".join(chunks)]) is None

    def test_it_is_no_longer_than_a_head(self) -> None:
        half = b"a" * (DATA_BYTES // 2)
        pair = NAME + b".0=%b; " % half + NAME + b".1=" + half
        assert COOKIES.find_data([TOKEN_COOKIE + pair]) == half + half
        assert COOKIES.find_data([TOKEN_COOKIE + pair + b"a"]) is None
