"""What the store's interface means, for every store and in every layout."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.identity import Quota
from sidecar.store.base import (
    MEMBERSHIPS_READ,
    Account,
    Renewal,
    SessionRecord,
    StoreUnavailable,
)
from tests.database import FIRST_CREATION, FOREVER, LAYOUTS, TABLES, BetterAuthDatabase, Raw
from tests.postgres import ANY_VALUE, POSTGRES_LAYOUTS

if TYPE_CHECKING:
    from sidecar.store.base import KeyRecord, Store
    from tests.database import MadeSession

UNKNOWN = b"\0" * 32
STORAGES = [
    *(("sqlite+valkey", name) for name in ("1.7", "1.7-serial", "1.7-drizzle-plural")),
    *(("postgres+valkey", name) for name in ("1.7", "1.7-uuid", "1.7-serial")),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a database on every kind and layout that can hold what it stores."""
    if "backend_and_layout" in metafunc.fixturenames:
        holds_anything = metafunc.definition.get_closest_marker("any_value") is not None
        postgres = ANY_VALUE if holds_anything else tuple(POSTGRES_LAYOUTS)
        # Entries hold anything, and so do SQLite's rows beside them.
        with_storage = (
            ("sqlite+valkey",) if holds_anything else ("sqlite+valkey", "postgres+valkey")
        )
        pairs = [("sqlite", name) for name in LAYOUTS] + [("postgres", name) for name in postgres]
        if metafunc.definition.get_closest_marker("rows_alone") is None:
            pairs += [pair for pair in STORAGES if pair[0] in with_storage]
        ids = ["-".join(pair) for pair in pairs]
        metafunc.parametrize("backend_and_layout", pairs, ids=ids, indirect=True)


async def key_with(
    store: Store, database: BetterAuthDatabase, owner: str, **columns: Any
) -> KeyRecord:
    """Return the record of a key with these columns."""
    record = await store.find_key(database.add_key(owner, **columns).digest)
    assert record is not None
    return record


def owner_may_be_organization(database: BetterAuthDatabase) -> bool:
    return database.layout.owner == "referenceId"


class TestKey:
    async def test_a_key_comes_with_its_owner_and_what_the_row_says(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        key = database.add_key(ada, acme, expiresAt=FOREVER, permissions={"chat": ["read"]})

        record = await store.find_key(key.digest)

        assert record is not None
        assert record.id == key.id
        assert record.enabled
        assert record.expires_at == FOREVER
        assert record.account == Account(ada, roles={acme: "admin"})
        assert record.organization_id is None
        assert record.metadata == {"organizationId": acme}
        assert record.permissions == {"chat": frozenset({"read"})}
        assert record.readable

    async def test_an_unknown_key_is_none(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        database.add_key(ada)

        assert await store.find_key(UNKNOWN) is None

    async def test_a_change_is_seen_by_the_next_question(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        key = database.add_key(ada)
        assert await store.find_key(key.digest) is not None

        database.remove("apikey", key.id)

        assert await store.find_key(key.digest) is None

    @pytest.mark.any_value
    @pytest.mark.parametrize(
        ("stored", "enabled"),
        [
            pytest.param(1, True, id="1"),
            pytest.param(0, False, id="0"),
            pytest.param(None, True, id="null"),
            pytest.param("true", True, id="text-true"),
            pytest.param("false", False, id="text-false"),
        ],
    )
    async def test_only_an_explicit_false_disables_a_key(
        self, store: Store, database: BetterAuthDatabase, ada: str, stored: object, enabled: bool
    ) -> None:
        assert (await key_with(store, database, ada, enabled=stored)).enabled is enabled

    @pytest.mark.any_value
    @pytest.mark.parametrize(
        "written",
        [
            pytest.param("2099-12-31T23:59:59.000Z", id="utc"),
            pytest.param("2100-01-01T01:59:59.000+02:00", id="offset"),
            pytest.param("2099-12-31 23:59:59", id="sql"),
            pytest.param(4_102_444_799, id="seconds"),
            pytest.param(4_102_444_799_000, id="milliseconds"),
            pytest.param("4102444799000", id="text-of-milliseconds"),
            pytest.param(4_102_444_799.0, id="real"),
        ],
    )
    async def test_an_expiry_is_told_by_its_value_whatever_the_layout(
        self, store: Store, database: BetterAuthDatabase, ada: str, written: object
    ) -> None:
        record = await key_with(store, database, ada, expiresAt=Raw(written))

        assert record.expires_at == FOREVER
        assert record.readable

    @pytest.mark.any_value
    async def test_a_key_with_an_expiry_that_is_no_date_is_unreadable(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        assert not (await key_with(store, database, ada, expiresAt="tomorrow")).readable

    async def test_a_key_whose_owner_is_gone_has_no_account(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        key = database.add_key(ada, acme)
        database.remove("user", ada)

        record = await store.find_key(key.digest)

        assert record is not None
        assert record.account is None
        assert record.organization_id is None


class TestKeyOfAnOrganization:
    async def test_a_key_belongs_to_an_organization_where_the_layout_allows_it(
        self, store: Store, database: BetterAuthDatabase, acme: str
    ) -> None:
        record = await key_with(store, database, acme)

        assert record.account is None
        assert record.organization_id == (acme if owner_may_be_organization(database) else None)

    async def test_an_owner_that_is_a_user_and_an_organization_is_the_user(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        """The user has to be a member; the organization would be let in at once."""
        database.add_organization(id=ada)

        record = await key_with(store, database, ada)

        assert record.account is not None
        assert record.organization_id is None

    async def test_a_key_whose_organization_is_gone_belongs_to_nobody(
        self, store: Store, database: BetterAuthDatabase, acme: str
    ) -> None:
        key = database.add_key(acme)
        database.remove("organization", acme)

        record = await store.find_key(key.digest)

        assert record is not None
        assert (record.account, record.organization_id) == (None, None)


@pytest.mark.rows_alone
class TestRowsWithTheSameKey:
    """Nothing makes `key` unique; which of two rows is written first must not decide."""

    @pytest.mark.parametrize("strict_first", [True, False])
    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param([{"enabled": False}, {"expiresAt": FOREVER}], id="disabled"),
            pytest.param([{"expiresAt": 1_577_836_800}, {"expiresAt": FOREVER}], id="expired"),
            pytest.param([{"expiresAt": 1_577_836_800}, {}], id="other-never-expires"),
        ],
    )
    async def test_the_stricter_row_decides(
        self,
        store: Store,
        database: BetterAuthDatabase,
        rows: list[dict[str, Any]],
        strict_first: bool,
    ) -> None:
        user = database.add_user()
        strict = 0 if strict_first else 1
        made = [database.add_key(user, raw="same", **row) for row in rows[:: 1 - 2 * strict]]

        record = await store.find_key(made[strict].digest)

        assert record is not None
        assert record.id == made[strict].id

    @pytest.mark.any_value
    async def test_one_that_is_disabled_in_text_is_the_stricter(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        made = [
            database.add_key(ada, raw="same", enabled=enabled) for enabled in (1, "false", "true")
        ]

        record = await store.find_key(made[0].digest)

        assert record is not None
        assert record.id == made[1].id

    async def test_of_equals_the_lowest_id_decides(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        made = [database.add_key(ada, raw="same") for _ in range(3)]

        record = await store.find_key(made[0].digest)

        assert record is not None
        assert record.id == min(key.id for key in made)


class TestMetadata:
    @pytest.mark.any_value
    @pytest.mark.parametrize(
        ("written", "read"),
        [
            pytest.param('{"organizationId":"o"}', {"organizationId": "o"}, id="object"),
            pytest.param('"{\\"organizationId\\":\\"o\\"}"', {"organizationId": "o"}, id="twice"),
            pytest.param('{"organizationId":["o"]}', {"organizationId": ["o"]}, id="odd-value"),
            pytest.param("null", {}, id="null"),
            pytest.param('"null"', {}, id="null-twice"),
            pytest.param(None, {}, id="NULL"),
            pytest.param("", {}, id="empty"),
            pytest.param('["organizationId"]', {}, id="array"),
            pytest.param("7", {}, id="number"),
        ],
    )
    async def test_metadata_is_an_object_or_says_nothing(
        self,
        store: Store,
        database: BetterAuthDatabase,
        ada: str,
        written: object,
        read: dict[str, object],
    ) -> None:
        record = await key_with(store, database, ada, metadata=written)

        assert record.metadata == read
        assert record.readable

    @pytest.mark.any_value
    @pytest.mark.parametrize(
        "written",
        [
            pytest.param("{not json", id="text"),
            pytest.param('"{not json"', id="text-in-json"),
            pytest.param(json.dumps({"organizationId": "o" * 70_000}), id="too-long"),
        ],
    )
    async def test_metadata_that_cannot_be_read_makes_the_key_unreadable(
        self, store: Store, database: BetterAuthDatabase, ada: str, written: object
    ) -> None:
        record = await key_with(store, database, ada, metadata=written)

        assert not record.readable
        assert record.metadata == {}


class TestPermissions:
    @pytest.mark.any_value
    @pytest.mark.parametrize(
        ("written", "read"),
        [
            pytest.param(
                '{"chat":["read","write"],"export":[]}',
                {"chat": frozenset({"read", "write"}), "export": frozenset()},
                id="object",
            ),
            pytest.param('"{\\"chat\\":[\\"read\\"]}"', {"chat": frozenset({"read"})}, id="twice"),
            pytest.param("{}", {}, id="no-resource"),
            pytest.param(None, None, id="NULL"),
            pytest.param("null", None, id="null"),
            pytest.param("", None, id="empty"),
        ],
    )
    async def test_permissions_are_actions_on_resources_or_none(
        self,
        store: Store,
        database: BetterAuthDatabase,
        ada: str,
        written: object,
        read: dict[str, frozenset[str]] | None,
    ) -> None:
        record = await key_with(store, database, ada, permissions=written)

        assert record.permissions == read
        assert record.readable

    @pytest.mark.any_value
    @pytest.mark.parametrize(
        "written",
        [
            pytest.param("{not json", id="text"),
            pytest.param('["chat"]', id="array"),
            pytest.param('{"chat":"read"}', id="actions-not-a-list"),
            pytest.param('{"chat":[1]}', id="action-not-a-string"),
            pytest.param("true", id="boolean"),
        ],
    )
    async def test_permissions_of_another_shape_make_the_key_unreadable(
        self, store: Store, database: BetterAuthDatabase, ada: str, written: str
    ) -> None:
        record = await key_with(store, database, ada, permissions=written)

        assert not record.readable
        assert record.permissions is None


class TestQuota:
    async def test_the_limit_columns_come_in_seconds(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        record = await key_with(
            store,
            database,
            ada,
            rateLimitMax=3,
            rateLimitTimeWindow=1500,
            requestCount=2,
            lastRequest=FIRST_CREATION + 60,
            remaining=7,
            refillAmount=10,
            refillInterval=3_600_000,
            lastRefillAt=FIRST_CREATION + 30,
        )

        assert record.quota == Quota(
            enabled=True,
            max_requests=3,
            window_s=1.5,
            request_count=2,
            last_request=FIRST_CREATION + 60,
            remaining=7,
            refill_amount=10,
            refill_interval_s=3600,
            last_refill=FIRST_CREATION + 30,
        )

    async def test_columns_that_are_null_say_nothing(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        columns = (
            *("rateLimitEnabled", "rateLimitMax", "rateLimitTimeWindow", "requestCount"),
            *("lastRequest", "remaining", "refillAmount", "refillInterval", "lastRefillAt"),
        )
        record = await key_with(
            store, database, ada, createdAt=FIRST_CREATION, **dict.fromkeys(columns)
        )

        assert record.quota == Quota()

    async def test_a_limit_that_is_switched_off_says_so(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        assert not (await key_with(store, database, ada, rateLimitEnabled=False)).quota.enabled

    async def test_a_refill_counts_from_the_rows_creation_until_the_first(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        refill = {"refillAmount": 5, "refillInterval": 60_000}
        record = await key_with(store, database, ada, createdAt=FIRST_CREATION + 5, **refill)

        assert record.quota.last_refill == FIRST_CREATION + 5

    async def test_without_a_refill_there_is_none_to_count_from(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        record = await key_with(store, database, ada, lastRefillAt=FIRST_CREATION)

        assert record.quota.last_refill is None

    async def test_a_refill_interval_below_a_second_is_days_where_1_2_may_have_written_it(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        """1.2 compares the column with days; read as milliseconds, 30 would be no quota at all."""
        record = await key_with(store, database, ada, refillInterval=30)

        days = not owner_may_be_organization(database)
        assert record.quota.refill_interval_s == (30 * 86_400 if days else 0.03)

    @pytest.mark.any_value
    @pytest.mark.parametrize(
        ("columns", "quota"),
        [
            pytest.param({"rateLimitMax": "100"}, {"max_requests": 100}, id="text"),
            pytest.param({"rateLimitMax": 100.9}, {"max_requests": 100}, id="real"),
            pytest.param({"rateLimitMax": -1}, {"max_requests": 0}, id="negative-limit"),
            pytest.param({"rateLimitMax": "many"}, {"max_requests": None}, id="no-number"),
            pytest.param({"rateLimitMax": 1e300}, {"max_requests": 2**53 - 1}, id="huge"),
            pytest.param({"rateLimitTimeWindow": 0}, {"window_s": None}, id="no-window"),
            pytest.param({"rateLimitTimeWindow": -5}, {"window_s": None}, id="negative-window"),
            pytest.param({"requestCount": -3}, {"request_count": 0}, id="negative-count"),
            pytest.param({"requestCount": "NaN"}, {"request_count": 0}, id="nan-count"),
            pytest.param({"lastRequest": "never"}, {"last_request": None}, id="no-date"),
            pytest.param({"remaining": -1}, {"remaining": 0}, id="negative-remaining"),
            pytest.param({"remaining": "few"}, {"remaining": 0}, id="unreadable-remaining"),
            pytest.param({"refillAmount": 0}, {"refill_amount": None}, id="refill-of-nothing"),
            pytest.param({"refillInterval": 0}, {"refill_interval_s": None}, id="refill-at-once"),
        ],
    )
    async def test_absurd_values_are_cut_to_what_makes_sense(
        self,
        store: Store,
        database: BetterAuthDatabase,
        ada: str,
        columns: dict[str, object],
        quota: dict[str, object],
    ) -> None:
        record = await key_with(store, database, ada, **columns)

        assert {name: getattr(record.quota, name) for name in quota} == quota


class TestMemberships:
    async def test_roles_are_told_for_every_organization(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        globex = database.add_organization()
        database.add_member(ada, globex, role="owner,billing")
        database.add_member(database.add_user(), globex, role="member")

        record = await key_with(store, database, ada)

        assert record.account == Account(ada, roles={acme: "admin", globex: "owner,billing"})

    async def test_a_membership_of_an_organization_that_is_gone_does_not_count(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        """1.2 leaves members behind when it deletes their organization."""
        session = database.add_session(ada, acme)
        database.remove("organization", acme)

        by_key = await key_with(store, database, ada, organization=acme)
        by_session = await store.find_session(session.token)

        assert by_session is not None
        assert by_key.account == by_session.account == Account(ada)
        assert await store.find_role(ada, acme) is None

    async def test_several_rows_of_one_membership_are_one_list_in_order_of_creation(
        self, store: Store, database: BetterAuthDatabase, acme: str
    ) -> None:
        user = database.add_user()
        database.add_member(user, acme, role="member", createdAt=FIRST_CREATION + 20)
        database.add_member(user, acme, role="owner, member", createdAt=FIRST_CREATION + 10)
        database.add_member(user, acme, role="billing", createdAt=FIRST_CREATION + 30)

        record = await key_with(store, database, user)

        assert record.account == Account(user, roles={acme: "owner,member,billing"})
        assert await store.find_role(user, acme) == "owner,member,billing"

    @pytest.mark.parametrize(
        ("memberships", "complete"),
        [
            pytest.param(MEMBERSHIPS_READ, True, id="as-many-as-are-read"),
            pytest.param(MEMBERSHIPS_READ + 1, False, id="one-more"),
        ],
    )
    async def test_a_user_of_very_many_organizations_is_incomplete(
        self, store: Store, database: BetterAuthDatabase, memberships: int, complete: bool
    ) -> None:
        user = database.add_user()
        organizations = [database.add_organization() for _ in range(memberships)]
        for organization in organizations:
            database.add_member(user, organization, role=f"role-{organization}")
        session = database.add_session(user)

        by_key = (await key_with(store, database, user)).account
        by_session = await store.find_session(session.token)

        assert by_key is not None
        assert by_session is not None
        assert by_key == by_session.account
        assert by_key.complete is complete
        assert len(by_key.roles) == MEMBERSHIPS_READ
        for organization in organizations:
            expected = f"role-{organization}"
            assert by_key.roles.get(organization, expected) == expected
            assert await store.find_role(user, organization) == expected

    async def test_roles_told_of_an_incomplete_account_are_whole(
        self, store: Store, database: BetterAuthDatabase
    ) -> None:
        """Rows are cut off after so many, maybe between two of the same membership."""
        user = database.add_user()
        organizations = [database.add_organization() for _ in range(MEMBERSHIPS_READ)]
        for role in ("member", "owner"):
            for organization in organizations:
                database.add_member(user, organization, role=role)

        account = (await key_with(store, database, user)).account

        assert account is not None
        assert not account.complete
        assert account.roles
        assert set(account.roles.values()) == {"member,owner"}


class TestBans:
    @pytest.fixture(autouse=True)
    def _with_bans(self, database: BetterAuthDatabase) -> None:
        database.add_bans()

    @pytest.mark.parametrize(
        ("columns", "ban"),
        [
            pytest.param({"banned": None}, (False, None), id="null"),
            pytest.param({"banned": False}, (False, None), id="false"),
            pytest.param({"banned": True}, (True, None), id="without-end"),
            pytest.param({"banned": True, "banExpires": FOREVER}, (True, FOREVER), id="until"),
            pytest.param({"banned": True, "banExpires": 1577836800}, (True, 1577836800), id="over"),
        ],
    )
    async def test_bans_come_with_the_account(
        self,
        store: Store,
        database: BetterAuthDatabase,
        ada: str,
        columns: dict[str, object],
        ban: tuple[bool, float | None],
    ) -> None:
        database.change("user", ada, **columns)
        session = await store.find_session(database.add_session(ada).token)

        account = (await key_with(store, database, ada)).account

        assert account is not None
        assert (account.banned, account.ban_expires) == ban
        assert session is not None
        assert session.account == account

    @pytest.mark.any_value
    async def test_a_ban_whose_end_is_no_date_has_none(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        database.change("user", ada, banned="true", banExpires="soon")

        account = (await key_with(store, database, ada)).account

        assert account is not None
        assert (account.banned, account.ban_expires) == (True, None)


class TestSession:
    async def test_a_session_comes_with_its_user(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        session = database.add_session(ada, acme)

        assert await store.find_session(session.token) == SessionRecord(
            id=session.id,
            expires_at=FOREVER,
            account=Account(ada, roles={acme: "admin"}),
            active_organization_id=acme,
        )

    @pytest.mark.parametrize(
        "token",
        [
            pytest.param("unknown", id="unknown"),
            pytest.param("", id="empty"),
            pytest.param("' OR '1'='1", id="sql"),
            pytest.param("\0", id="nul"),
            pytest.param("\udcff", id="not-utf-8"),
            pytest.param("a" * 100_000, id="long"),
        ],
    )
    async def test_an_unknown_session_is_none(
        self, store: Store, database: BetterAuthDatabase, ada: str, token: str
    ) -> None:
        database.add_session(ada)

        assert await store.find_session(token) is None

    async def test_the_id_of_a_session_is_not_its_token(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        assert await store.find_session(database.add_session(ada).id) is None

    @pytest.mark.parametrize("active", [None, ""])
    async def test_a_session_may_have_no_active_organization(
        self, store: Store, database: BetterAuthDatabase, ada: str, active: str | None
    ) -> None:
        session = await store.find_session(database.add_session(ada, active).token)

        assert session is not None
        assert session.active_organization_id is None

    async def test_an_expired_session_is_told_as_it_is(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        session = await store.find_session(database.add_session(ada, expiresAt=1_577_836_800).token)

        assert session is not None
        assert session.expires_at == 1_577_836_800

    @pytest.mark.any_value
    async def test_an_expiry_that_is_no_date_is_long_past(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        session = await store.find_session(database.add_session(ada, expiresAt="never").token)

        assert session is not None
        assert session.expires_at == 0

    async def test_a_session_whose_user_is_gone_has_no_account(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        made = database.add_session(ada)
        database.remove("user", ada)

        session = await store.find_session(made.token)

        assert session is not None
        assert session.account is None


@pytest.mark.rows_alone
class TestRenewal:
    SOON = 1_900_000_000.25
    LATER = 1_900_600_000.25

    async def seen(self, store: Store, made: MadeSession) -> SessionRecord:
        record = await store.find_session(made.token)
        assert record is not None
        return record

    def renewal(self, record: SessionRecord) -> Renewal:
        return Renewal(record.id, record.written_expiry, self.LATER, self.SOON)

    def row(self, database: BetterAuthDatabase, session: str) -> list[tuple[object, ...]]:
        columns = ", ".join(database.column(name) for name in TABLES["session"])
        where = f"WHERE {database.column('id')} = '{session}'"
        return database.execute(f"SELECT {columns} FROM {database.table('session')} {where}")

    async def test_a_session_is_moved_in_the_stores_own_form(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        made = database.add_session(ada, acme, expiresAt=self.SOON, createdAt=1_800_000_000)
        as_it_should = database.add_session(
            ada, acme, expiresAt=self.LATER, createdAt=1_800_000_000, updatedAt=self.SOON
        )

        assert await store.renew_sessions([self.renewal(await self.seen(store, made))]) == [True]

        ((_, *renewed),) = self.row(database, made.id)
        ((_, *expected),) = self.row(database, as_it_should.id)
        assert made.token in renewed
        assert [each for each in renewed if each != made.token] == [
            each for each in expected if each != as_it_should.token
        ]
        record = await self.seen(store, made)
        assert abs(record.expires_at - self.LATER) < 1
        assert record != await self.seen(store, as_it_should)

    async def test_a_session_that_is_gone_stays_so(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        made = database.add_session(ada, expiresAt=self.SOON)
        renewal = self.renewal(await self.seen(store, made))
        database.remove("session", made.id)

        assert await store.renew_sessions([renewal]) == [False]

        assert self.row(database, made.id) == []

    async def test_another_change_is_not_undone(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        made = database.add_session(ada, expiresAt=self.SOON)
        renewal = self.renewal(await self.seen(store, made))
        database.change("session", made.id, expiresAt=self.SOON - 3600)
        changed = self.row(database, made.id)

        assert await store.renew_sessions([renewal]) == [False]

        assert self.row(database, made.id) == changed

    async def test_one_renewal_counts_once(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        made = database.add_session(ada, expiresAt=self.SOON)
        renewal = self.renewal(await self.seen(store, made))

        assert await store.renew_sessions([renewal]) == [True]
        assert await store.renew_sessions([renewal]) == [False]

    async def test_each_of_many_is_told_in_its_place(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        made = [database.add_session(ada, expiresAt=self.SOON) for _ in range(20)]
        untouched = database.add_session(ada, expiresAt=self.SOON)
        before = self.row(database, untouched.id)
        renewals = [self.renewal(await self.seen(store, each)) for each in made]
        for each in made[::3]:
            database.remove("session", each.id)

        moved = await store.renew_sessions(renewals)

        assert moved == [at % 3 != 0 for at in range(20)]
        assert self.row(database, untouched.id) == before

    async def test_a_session_that_cannot_be_read_back_is_not_moved(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        made = database.add_session(ada, expiresAt=self.SOON)
        record = await self.seen(store, made)

        moved = await store.renew_sessions(
            [Renewal(made.id[::-1], record.written_expiry, self.LATER, self.SOON)]
        )

        assert moved == [False]

    async def test_what_is_to_be_written_is_not_shown(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        record = await self.seen(store, database.add_session(ada, expiresAt=self.SOON))

        assert "written_expiry" not in repr(record) + repr(self.renewal(record))


class TestAccount:
    async def test_a_user_comes_with_what_it_belongs_to(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        globex = database.add_organization()
        database.add_member(ada, globex, role="owner")
        database.add_member(database.add_user(), acme)

        account = (await store.find_accounts([ada]))[ada]

        assert account == Account(ada, roles={acme: "admin", globex: "owner"})

    async def test_a_user_may_belong_nowhere(
        self, store: Store, database: BetterAuthDatabase
    ) -> None:
        user = database.add_user()

        assert await store.find_accounts([user]) == {user: Account(user)}

    async def test_a_banned_user_is_told_as_such(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        database.add_bans()
        database.change("user", ada, banned=True, banExpires=FOREVER)

        account = (await store.find_accounts([ada]))[ada]

        assert account is not None
        assert account.banned
        assert account.ban_expires == FOREVER

    async def test_a_user_who_is_gone_is_none(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        database.remove("user", ada)

        assert (await store.find_accounts([ada]))[ada] is None

    @pytest.mark.parametrize(
        "spoilt",
        [
            pytest.param("0{}", id="leading-zero"),
            pytest.param(" {}", id="space"),
            pytest.param("{}\0", id="nul"),
            pytest.param("{}\udcff", id="not-utf-8"),
        ],
    )
    async def test_only_the_very_id_will_do(
        self, store: Store, acme: str, ada: str, spoilt: str
    ) -> None:
        other = spoilt.format(ada)
        assert await store.find_accounts([other, ada]) == {
            other: None,
            ada: Account(ada, roles={acme: "admin"}),
        }


class TestRole:
    async def test_a_members_role_is_found(self, store: Store, acme: str, ada: str) -> None:
        assert await store.find_role(ada, acme) == "admin"

    async def test_who_is_no_member_has_no_role(
        self, store: Store, database: BetterAuthDatabase, acme: str, ada: str
    ) -> None:
        assert await store.find_role(ada, database.add_organization()) is None
        assert await store.find_role(database.add_user(), acme) is None

    @pytest.mark.parametrize(
        "spoilt",
        [
            pytest.param("0{}", id="leading-zero"),
            pytest.param("{}.0", id="fraction"),
            pytest.param(" {}", id="space"),
            pytest.param("{}\0", id="nul"),
            pytest.param("{}\udcff", id="not-utf-8"),
        ],
    )
    async def test_only_the_very_id_will_do(
        self, store: Store, acme: str, ada: str, spoilt: str
    ) -> None:
        """A client names the organization; a column of numbers also finds `07` for 7."""
        assert await store.find_role(ada, spoilt.format(acme)) is None
        assert await store.find_role(spoilt.format(ada), acme) is None


class TestLifetime:
    async def test_a_store_that_is_not_open_is_unavailable(self, store: Store) -> None:
        await store.close()

        for question in (
            store.ping(),
            store.find_key(UNKNOWN),
            store.find_session("token"),
            store.renew_sessions([Renewal("session", 1, 2, 3)]),
            store.find_accounts(["user"]),
            store.find_role("user", "organization"),
        ):
            with pytest.raises(StoreUnavailable, match="not open"):
                await question

    async def test_a_store_can_be_opened_again(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        key = database.add_key(ada)
        await store.close()
        await store.close()

        await store.open()
        await store.open()

        await store.ping()
        assert await store.find_key(key.digest) is not None

    async def test_many_questions_at_once_are_all_answered(
        self, store: Store, database: BetterAuthDatabase, ada: str
    ) -> None:
        keys = [database.add_key(ada) for _ in range(50)]

        records = await asyncio.gather(*(store.find_key(key.digest) for key in keys * 4))

        assert [record and record.id for record in records] == [key.id for key in keys * 4]
