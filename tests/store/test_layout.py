"""Which Better Auth wrote a database, told from the names in its catalogue."""

from __future__ import annotations

import pytest

from sidecar.store.base import LayoutError
from sidecar.store.layout import concerns, detect

KEY_COLUMNS = (
    *("id", "key", "enabled", "expiresAt", "createdAt", "permissions", "metadata"),
    *("rateLimitEnabled", "rateLimitMax", "rateLimitTimeWindow", "requestCount", "lastRequest"),
    *("remaining", "refillAmount", "refillInterval", "lastRefillAt"),
)

OWNED = ("referenceId", "configId", *KEY_COLUMNS)


def catalogue(**changes: tuple[str, ...] | None) -> dict[str, tuple[str, ...]]:
    """Return Better Auth's tables, with *changes*: other columns, or None for no such table."""
    tables: dict[str, tuple[str, ...] | None] = {
        "user": ("id", "name", "email"),
        "session": ("id", "token", "userId", "expiresAt", "activeOrganizationId"),
        "organization": ("id", "slug"),
        "member": ("id", "organizationId", "userId", "role", "createdAt"),
        "apikey": OWNED,
        **changes,
    }
    return {name: columns for name, columns in tables.items() if columns is not None}


def snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


class TestNames:
    def test_camel_case_names_are_taken_as_they_are(self) -> None:
        layout = detect(catalogue())

        assert layout.table("member") == '"member"'
        assert layout.column("member", "organizationId") == '"organizationId"'
        assert "camelCase columns" in layout.describe()

    def test_snake_case_names_are_found(self) -> None:
        tables = catalogue().items()
        layout = detect({name: [snake_case(column) for column in found] for name, found in tables})

        assert layout.column("apikey", "rateLimitTimeWindow") == '"rate_limit_time_window"'
        assert "snake_case columns" in layout.describe()

    def test_names_of_both_kinds_may_stand_together(self) -> None:
        layout = detect(catalogue(member=("id", "organization_id", "userId", "role", "createdAt")))

        assert layout.column("member", "organizationId") == '"organization_id"'
        assert layout.column("member", "userId") == '"userId"'
        assert "mixed camelCase and snake_case columns" in layout.describe()

    def test_names_folded_to_lower_case_are_found(self) -> None:
        layout = detect(catalogue(member=("id", "organizationid", "userid", "role", "createdat")))

        assert layout.column("member", "organizationId") == '"organizationid"'

    def test_better_auths_own_name_goes_before_one_like_it(self) -> None:
        columns = (
            "id",
            "organizationId",
            "organization_id",
            "user_id",
            "userId",
            "role",
            "createdAt",
        )
        layout = detect(catalogue(member=columns))

        assert layout.column("member", "userId") == '"userId"'
        assert layout.column("member", "organizationId") == '"organizationId"'

    def test_all_tables_may_be_plural(self) -> None:
        layout = detect({f"{name}s": columns for name, columns in catalogue().items()})

        assert layout.table("apikey") == '"apikeys"'
        assert "plural table names" in layout.describe()

    def test_one_table_of_the_applications_is_not_taken_for_better_auths(self) -> None:
        """Whose `users` they are is anybody's guess, and whether they know of bans."""
        with pytest.raises(LayoutError, match="missing table user;"):
            detect({**catalogue(user=None), "users": ("id",)})

    def test_tables_of_the_application_do_not_matter(self) -> None:
        layout = detect({**catalogue(), "users": ("id",), "members": ("id",), "invoice": ("id",)})

        assert layout.table("user") == '"user"'

    @pytest.mark.parametrize(
        ("table", "concerned"),
        [("user", True), ("users", True), ("api_key", True), ("ApiKeys", True), ("invoice", False)],
    )
    def test_only_tables_that_may_be_better_auths_concern_us(
        self, table: str, concerned: bool
    ) -> None:
        assert concerns(table) is concerned


class TestGivenNames:
    """`store.names`: what the database calls things, where that cannot be guessed."""

    def test_a_table_and_a_column_have_the_names_that_are_given(self) -> None:
        columns = tuple("owner" if name == "referenceId" else name for name in OWNED)
        tables = {**catalogue(apikey=None), "credentials": columns}
        names = {"apikey": "credentials", "apikey.referenceId": "owner"}

        layout = detect(tables, names)

        assert layout.table("apikey") == '"credentials"'
        assert layout.column("apikey", layout.key_owner) == '"owner"'
        assert "camelCase columns; names given: apikey, apikey.referenceId;" in layout.describe()
        assert concerns("credentials", names)
        assert not concerns("owner", names)

    def test_the_other_tables_may_be_plural(self) -> None:
        tables = {f"{name}s": columns for name, columns in catalogue(apikey=None).items()}

        layout = detect({**tables, "credentials": OWNED}, {"apikey": "credentials"})

        assert layout.table("user") == '"users"'
        assert "plural table names" in layout.describe()

    def test_a_name_goes_before_one_that_would_have_been_found(self) -> None:
        """An application may keep a `role` of its own beside the one that counts."""
        columns = ("id", "organizationId", "userId", "role", "createdAt", "real_role")

        layout = detect(catalogue(member=columns), {"member.role": "real_role"})

        assert layout.column("member", "role") == '"real_role"'

    def test_a_name_that_is_not_there_is_missing_even_if_it_could_be_done_without(self) -> None:
        names = {"user": "people", "apikey.expiresAt": "ends", "session.token": "Token"}

        with pytest.raises(
            LayoutError,
            match=r"missing table user \(people by store\.names\) and columns session\.token"
            r" \(Token by store\.names\), apikey\.expiresAt \(ends by store\.names\);",
        ):
            detect(catalogue(), names)
        with pytest.raises(LayoutError, match=r"user\.banned \(locked by store\.names\);"):
            detect(catalogue(), {"user.banned": "locked"})


class TestTypes:
    def test_types_come_along_where_the_catalogue_has_them(self) -> None:
        typed = {
            name: dict.fromkeys(columns, "text") | {"id": "uuid"}
            for name, columns in catalogue().items()
        }
        schemas = dict.fromkeys(typed, "auth")

        layout = detect(typed, None, schemas)

        assert layout.type_of("user", "id") == "uuid"
        assert layout.type_of("apikey", "key") == "text"
        assert layout.type_of("user", "banned") is None
        assert layout.table("user") == '"auth"."user"'
        assert "uuid ids" in layout.describe()

    def test_without_them_there_are_none(self) -> None:
        layout = detect(catalogue())

        assert layout.type_of("user", "id") is None
        assert " ids" not in layout.describe()


class TestOwner:
    def test_until_1_4_a_key_belongs_to_a_user(self) -> None:
        layout = detect(catalogue(apikey=("userId", *KEY_COLUMNS)))

        assert layout.key_owner == "userId"
        assert not layout.owner_may_be_organization
        assert layout.describe().startswith("Better Auth 1.2 to 1.4 (keys belong to their userId)")

    def test_since_1_5_a_key_belongs_to_a_reference(self) -> None:
        layout = detect(catalogue())

        assert layout.key_owner == "referenceId"
        assert layout.owner_may_be_organization
        assert layout.describe().startswith("Better Auth 1.5 to 1.7")

    def test_a_reference_goes_before_a_user_that_was_left_behind(self) -> None:
        """A migrated table may keep both; Better Auth then reads the reference."""
        layout = detect(catalogue(apikey=("userId", "referenceId", "configId", *KEY_COLUMNS)))

        assert layout.key_owner == "referenceId"


class TestBans:
    @pytest.mark.parametrize(
        ("columns", "known"),
        [
            pytest.param(("id",), False, id="without-plugin"),
            pytest.param(("id", "banned", "banExpires"), True, id="with-plugin"),
            pytest.param(("id", "banned"), True, id="without-end"),
        ],
    )
    def test_bans_are_known_where_there_is_a_column(
        self, columns: tuple[str, ...], known: bool
    ) -> None:
        layout = detect(catalogue(user=columns))

        assert layout.knows_bans is known
        assert ("with bans" in layout.describe()) is known


class TestDescription:
    def test_the_form_of_dates_is_told_where_there_are_any(self) -> None:
        layout = detect(catalogue())

        assert "dates as seconds since 1970" in layout.describe("seconds since 1970")
        assert "no dates yet" in layout.describe()


class TestMissing:
    def test_every_missing_table_and_column_is_named(self) -> None:
        with pytest.raises(LayoutError) as caught:
            detect(
                catalogue(
                    session=("id", "token", "userId"), organization=None, member=None, user=()
                )
            )

        assert str(caught.value) == (
            "not Better Auth's database: missing tables organization, member and columns user.id,"
            " session.expiresAt, session.activeOrganizationId; expected are the tables user,"
            " session, organization, member, apikey as Better Auth 1.2 to 1.7 makes them,"
            " found are apikey, session, user"
        )

    def test_either_owner_of_keys_would_do(self) -> None:
        with pytest.raises(
            LayoutError, match=r"missing column apikey\.userId or apikey\.reference"
        ):
            detect(catalogue(apikey=KEY_COLUMNS))

    def test_a_database_of_something_else_is_told_by_its_tables(self) -> None:
        tables: dict[str, list[str]] = {f"table{number:02}": [] for number in range(20)}

        with pytest.raises(LayoutError, match=r"found are table00, .*, table11 and 8 more$"):
            detect(tables)

    def test_an_empty_database_is_told(self) -> None:
        with pytest.raises(LayoutError, match=r"found are none$"):
            detect({})
