"""Who belongs where: bans, roles, and the identity that a member has in an organization."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, cast

from sidecar.auth.cache import UNKNOWN
from sidecar.auth.queries import Load

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sidecar.auth.cache import Entry, RecordCache
    from sidecar.auth.pending import Answer
    from sidecar.store.base import Account, Store

ORGANIZATION_CHARACTERS = 256
"""The longest organization id that the store is asked for; Better Auth's have 32."""


def is_banned(account: Account, now: float) -> bool:
    """Tell whether the account is banned at *now* (Unix seconds)."""
    return account.banned and (account.ban_expires is None or account.ban_expires > now)


@lru_cache(256)
def _roles(role: str) -> frozenset[str]:
    """Return the roles in what is stored; the same object where the same is stored again."""
    return frozenset(part.strip() for part in role.split(",")) - {""}


class Seat:
    """A credential's place in one organization, made once for each time its record is read."""

    __slots__ = ("answer", "organization", "role", "roles")

    def __init__(self, organization: str | None, role: str, answer: Answer) -> None:
        self.organization = organization
        self.role = role
        """As stored, "" for none."""
        self.roles = _roles(role)
        self.answer = answer
        """The identity, or why there can be none."""


class Memberships:
    """Roles of users in organizations, from their account where it has them all."""

    def __init__(self, store: Store, cache: RecordCache[str]) -> None:
        self._store = store
        self._cache = cache

    def role(
        self, account: Account, organization: str, now: float, address: str | None
    ) -> str | Load[str] | None:
        """Return the account's role or roles in *organization*, or None for no member.

        An account with more memberships than came along with it may take a question to the store:
        then the load to `wait_for`; *address* is where the credential came from.
        Raises StoreUnavailable where the store has too much to do.
        """
        role = account.roles.get(organization)
        if role is not None or account.complete:
            return role
        if not 0 < len(organization) <= ORGANIZATION_CHARACTERS:
            return None
        question = partial(self._store.find_role, account.user_id, organization)
        found = self._cache.find((account.user_id, organization), question, now, address)
        if found is UNKNOWN:
            return None
        return found if isinstance(found, Load) else found.record

    def ask_again(self, entry: Entry[str]) -> None:
        """Have a role read again by itself. Raises StoreUnavailable where nothing is asked."""
        self._cache.ask_again(entry, partial(self._store.find_role, *role_name(entry.name)))

    async def wait_for(self, load: Load[str], arrived: float) -> str | None:
        """Return the role that *load* brings, or None for no member.

        Raises StoreUnavailable as `RecordCache.wait_for` does.
        """
        found = await self._cache.wait_for(load, arrived)
        return None if found is UNKNOWN else found.record


def role_name(name: Hashable) -> tuple[str, str]:
    """Return the ids of the user and the organization that make up the name of a role."""
    return cast("tuple[str, str]", name)
