"""A walk through the rows of API keys, each judged as the proxy would judge it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from sidecar.auth.credentials import Presented, api_key_digest
from sidecar.doctor.judge import Judge
from sidecar.doctor.reading import ReadOnly
from sidecar.identity import Demand
from sidecar.store.base import StoreUnavailable
from sidecar.store.inspection import KEYS_A_PAGE

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.settings import Settings
    from sidecar.store.base import KeyRecord, Store
    from sidecar.store.inspection import Inspection, SurveyedKey

KEYS_READ: Final = 20_000
"""Keys that are looked at; of more, the first by id."""
SURVEY_S: Final = 5.0
"""After how long no further page of them is read."""

_OF_AN_ORGANIZATION: Final = Demand(frozenset(("api_key",)))


@dataclass(frozen=True, slots=True)
class JudgedKey:
    """A key, and what the proxy would say to it on a route that demands an organization."""

    key: SurveyedKey
    reason: str
    """`ok`, or that of the refusal."""

    @property
    def record(self) -> KeyRecord:
        """The key's row."""
        return self.key.record


@dataclass(slots=True)
class Survey:
    """The keys that were looked at."""

    keys: list[JudgedKey] = field(default_factory=list)
    cut_short: str | None = None
    """Why not all of them were; None where they were."""

    def of(self, *reasons: str) -> list[JudgedKey]:
        """Return the keys that get one of these reasons."""
        return [key for key in self.keys if key.reason in reasons]


async def survey(settings: Settings, store: Store, inspection: Inspection, clock: Clock) -> Survey:
    """Look at all keys, or at the first KEYS_READ, or as far as one gets in SURVEY_S.

    Raises StoreUnavailable where none could be read.
    """
    found, shelf = Survey(), _Shelf(store)
    judge = Judge(settings, cast("Store", shelf), clock)
    began = clock.monotonic()
    try:
        while True:
            page = await _page(inspection, found)
            for key in page:
                presented = Presented((shelf.put(key.record),))
                reason = await judge.reason(_OF_AN_ORGANIZATION, presented)
                found.keys.append(JudgedKey(key, reason))
            if len(page) < KEYS_A_PAGE:
                return found
            if len(found.keys) >= KEYS_READ:
                found.cut_short = f"there are more than {KEYS_READ}"
                return found
            if clock.monotonic() - began > SURVEY_S:
                found.cut_short = f"{SURVEY_S:g} s were not enough for all"
                return found
    finally:
        await judge.close()


async def _page(inspection: Inspection, found: Survey) -> list[SurveyedKey]:
    try:
        return await inspection.keys(len(found.keys))
    except StoreUnavailable as error:
        if not found.keys:
            raise
        found.cut_short = str(error)
        return []


class _Shelf(ReadOnly):
    """A store that has one key at a time, under a name made up for it: real ones are not known."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._number = 0
        self._digest = b""
        self._record: KeyRecord | None = None

    def put(self, record: KeyRecord) -> bytes:
        """Have *record* found by the key that is returned."""
        self._number += 1
        name = b"row-%d" % self._number
        self._digest, self._record = api_key_digest(name), record
        return name

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        return self._record if digest == self._digest else None
