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
    streams: int
    stream_period_ms: int
    """Milliseconds between two events of one stream."""
    streams_settle_s: float
    streams_s: float
    download_bytes: int
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
    streams=1000,
    stream_period_ms=100,
    streams_settle_s=1.0,
    streams_s=3.0,
    download_bytes=GIB,
    slow_bytes=GIB,
    slow_rate=200 * MIB,
    limit_s=600,
)

QUICK = Plan(
    rounds=1,
    connections=64,
    warmup_s=0.5,
    requests_s=2.0,
    streams=500,
    stream_period_ms=50,
    streams_settle_s=0.5,
    streams_s=2.0,
    download_bytes=GIB // 2,
    slow_bytes=GIB // 2,
    slow_rate=200 * MIB,
    limit_s=180,
)
