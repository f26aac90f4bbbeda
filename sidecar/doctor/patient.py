"""What checks look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.doctor.survey import Survey, survey
from sidecar.store.base import StoreUnavailable

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.proxy.discovery import Resolver
    from sidecar.settings import Settings
    from sidecar.store.inspection import Inspection
    from sidecar.store.making import Database


@dataclass(slots=True, eq=False)
class Patient:
    """A configuration, with the parts by which to ask what it names."""

    settings: Settings
    store: Database
    inspection: Inspection
    clock: Clock
    resolver: Resolver
    cookie: bytes | None = field(default=None, repr=False)
    """A Cookie header to try, if one was given."""
    _survey: Survey | StoreUnavailable | None = None

    async def survey(self) -> Survey:
        """Return the keys, which are walked through once. Raises StoreUnavailable."""
        if self._survey is None:
            try:
                self._survey = await survey(self.settings, self.store, self.inspection, self.clock)
            except StoreUnavailable as error:
                # The next check would wait as long for the same.
                self._survey = error
        if isinstance(self._survey, StoreUnavailable):
            raise StoreUnavailable(str(self._survey)) from self._survey
        return self._survey
