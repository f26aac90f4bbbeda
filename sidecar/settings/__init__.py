"""The configuration file: found, read, and checked as a whole before anything starts."""

from sidecar.settings.addresses import StoreURL, UpstreamURL
from sidecar.settings.loading import find, load, parse
from sidecar.settings.problems import Problem, SettingsError
from sidecar.settings.sections import (
    Admin,
    APIKey,
    IdentityHeaders,
    Limits,
    Listen,
    ListenLimits,
    ListenTimeouts,
    ListenTLS,
    Log,
    Route,
    Section,
    Session,
    Settings,
    Store,
    StoreCache,
    Upstream,
)

__all__ = [
    "APIKey",
    "Admin",
    "IdentityHeaders",
    "Limits",
    "Listen",
    "ListenLimits",
    "ListenTLS",
    "ListenTimeouts",
    "Log",
    "Problem",
    "Route",
    "Section",
    "Session",
    "Settings",
    "SettingsError",
    "Store",
    "StoreCache",
    "StoreURL",
    "Upstream",
    "UpstreamURL",
    "find",
    "load",
    "parse",
]
