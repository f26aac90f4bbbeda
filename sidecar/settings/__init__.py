"""The configuration file: found, read, and checked as a whole before anything starts."""

from sidecar.settings.addresses import StoreURL, UnixURL, UpstreamURL
from sidecar.settings.loading import find, load, parse
from sidecar.settings.problems import Problem, SettingsError
from sidecar.settings.sections import (
    Admin,
    APIKey,
    Health,
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
    UpstreamTLS,
)

__all__ = [
    "APIKey",
    "Admin",
    "Health",
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
    "UnixURL",
    "Upstream",
    "UpstreamTLS",
    "UpstreamURL",
    "find",
    "load",
    "parse",
]
