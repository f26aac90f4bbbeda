"""The configuration file: found, read, and checked as a whole before anything starts."""

from sidecar.settings.addresses import IN_MEMORY, UnixURL, UpstreamURL
from sidecar.settings.loading import find, load, parse, read_store_url
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
from sidecar.settings.store_urls import PostgresURL, SQLiteURL, StoreURL
from sidecar.settings.valkey_urls import ValkeyURL

__all__ = [
    "IN_MEMORY",
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
    "PostgresURL",
    "Problem",
    "Route",
    "SQLiteURL",
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
    "ValkeyURL",
    "find",
    "load",
    "parse",
    "read_store_url",
]
