"""How long and how often each thing is measured."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of one run; times in seconds."""

    rounds: int
    connections: int
    warmup_s: float
    requests_s: float
    mixed_s: float
    streams: int
    stream_period_ms: int
    """Milliseconds between two events of one stream."""
    streams_settle_s: float
    streams_s: float
    download_bytes: int
    upload_bytes: int
    slow_bytes: int
    """Size of the download whose reader is slow."""
    slow_rate: int
    """Bytes a second that the slow reader takes; far below what any of the proxies can move."""
    limit_s: int
    """The whole run is given up after this."""


FULL = Plan(
    rounds=5,
    connections=64,
    warmup_s=1.0,
    requests_s=3.0,
    mixed_s=2.0,
    streams=1000,
    stream_period_ms=100,
    streams_settle_s=1.0,
    streams_s=3.0,
    download_bytes=GIB,
    upload_bytes=GIB,
    slow_bytes=GIB,
    slow_rate=200 * MIB,
    limit_s=1200,
)

QUICK = Plan(
    rounds=1,
    connections=64,
    warmup_s=0.5,
    requests_s=2.0,
    mixed_s=1.0,
    streams=500,
    stream_period_ms=50,
    streams_settle_s=0.5,
    streams_s=2.0,
    download_bytes=GIB // 2,
    upload_bytes=GIB // 2,
    slow_bytes=GIB // 2,
    slow_rate=200 * MIB,
    limit_s=300,
)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The sizes of one run under load; times in seconds."""

    rounds: int
    connections: tuple[int, ...]
    """How many are busy at once, one measurement after the other."""
    warmup_s: float
    requests_s: float
    streams: int
    """How many are open at once, idle but for an event now and then; fewer where descriptors end.
    """
    stream_period_ms: int
    slow_readers: int
    """Downloads beside the streams whose readers are slow."""
    slow_rate: int
    """Bytes a second that each of these readers takes."""
    paced_rate: int
    """Requests a second before, beside and after the streams: few enough for any proxy."""
    paced_s: float
    settle_s: float
    limit_s: int
    """The whole run is given up after this."""


FULL_LOAD = LoadPlan(
    rounds=3,
    connections=(64, 256, 1024),
    warmup_s=1.0,
    requests_s=3.0,
    streams=10_000,
    stream_period_ms=10_000,
    slow_readers=50,
    slow_rate=64 * 1024,
    paced_rate=500,
    paced_s=4.0,
    settle_s=1.0,
    limit_s=1800,
)

QUICK_LOAD = LoadPlan(
    rounds=1,
    connections=(64, 256, 1024),
    warmup_s=1.0,
    requests_s=1.0,
    streams=2_000,
    stream_period_ms=5_000,
    slow_readers=20,
    slow_rate=64 * 1024,
    paced_rate=500,
    paced_s=2.0,
    settle_s=0.5,
    limit_s=600,
)


@dataclass(frozen=True, slots=True)
class FreshnessPlan:
    """The sizes of one run that measures how soon changes are noticed."""

    samples: int
    """Changes of each kind."""
    at_once: int
    """Subjects of changes that are in use at the same time; and connections of the requests below.
    """
    keys: int
    """Keys in use while statements are counted."""
    requests: int
    """Requests with them."""
    limit_s: int
    """The whole run is given up after this."""


FULL_FRESHNESS = FreshnessPlan(samples=200, at_once=20, keys=100, requests=100_000, limit_s=1200)
QUICK_FRESHNESS = FreshnessPlan(samples=20, at_once=20, keys=100, requests=10_000, limit_s=300)


@dataclass(frozen=True, slots=True)
class StorePlan:
    """The sizes of one run on a large store; times in seconds."""

    rounds: int
    keys: int
    """Rows of keys; those of the other tables follow."""
    sessions: int
    users: int
    organizations: int
    active: int
    """Credentials in use, of each kind."""
    freshness_s: float
    write_period_s: float
    """Between two changes, where the store is written to."""
    first_uses: int
    """Keys that are seen for the first time, in each round."""
    flood_rate: int
    """Bad keys a second."""
    addresses: int
    """Where they come from, where it is not one address."""
    valid_rate: int
    """Requests a second with good keys that leave the sidecar time to spare."""
    connections: int
    load_s: float
    """How long valid requests are sent, at each pace, without a flood and beside one."""
    counted_requests: int
    counted_keys: int
    limit_s: int
    """The whole run is given up after this."""


FULL_STORE = StorePlan(
    rounds=3,
    keys=400_000,
    sessions=100_000,
    users=225_000,
    organizations=50_000,
    active=10_000,
    freshness_s=3.0,
    write_period_s=0.1,
    first_uses=300,
    flood_rate=20_000,
    addresses=5_000,
    valid_rate=1_000,
    connections=64,
    load_s=1.0,
    counted_requests=100_000,
    counted_keys=100,
    limit_s=900,
)
QUICK_STORE = StorePlan(
    rounds=1,
    keys=40_000,
    sessions=20_000,
    users=17_500,
    organizations=5_000,
    active=10_000,
    freshness_s=2.0,
    write_period_s=0.1,
    first_uses=100,
    flood_rate=20_000,
    addresses=5_000,
    valid_rate=1_000,
    connections=64,
    load_s=1.0,
    counted_requests=100_000,
    counted_keys=100,
    limit_s=300,
)


@dataclass(frozen=True, slots=True)
class LimitsPlan:
    """The sizes of one run that measures what limits cost; times in seconds."""

    rounds: int
    decisions: int
    """Of each kind in each round."""
    many: int
    """Keys that are known at once."""
    hot: int
    """Of these, in use where not all are."""
    connections: int
    warmup_s: float
    load_s: float
    """How long each sidecar is loaded in a closed loop."""
    paced_rate: int
    """Requests a second that leave a sidecar time to spare."""
    paced_s: float
    limit_s: int
    """The whole run is given up after this."""


FULL_LIMITS = LimitsPlan(
    rounds=5,
    decisions=100_000,
    many=1_000_000,
    hot=1000,
    connections=64,
    warmup_s=1.0,
    load_s=4.0,
    paced_rate=1000,
    paced_s=4.0,
    limit_s=600,
)
QUICK_LIMITS = LimitsPlan(
    rounds=1,
    decisions=50_000,
    many=200_000,
    hot=1000,
    connections=64,
    warmup_s=0.5,
    load_s=1.5,
    paced_rate=1000,
    paced_s=1.5,
    limit_s=180,
)
