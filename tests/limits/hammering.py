"""A process that uses up limits together with others: `python -m tests.limits.hammering …`.

Each line that it is sent says how many requests to make. It tells by a byte on stdout each that
passed, right after it was counted, and the end of those that were asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import sys
from pathlib import Path

from sidecar.clock import SystemClock
from sidecar.identity import PLAIN, Charge, Quota
from sidecar.limits.local import LocalLimiter
from sidecar.limits.policy import Limit, Rules

READY = b"r"
PASSED = b"."

_STDOUT = 1
_TEN_YEARS_S = 3650 * 86_400.0
_TURN_S = 0.005
_TURN = 25
"""Requests between two looks at who else is there."""


async def hammer(arguments: argparse.Namespace) -> None:
    limit = Limit(arguments.requests, _TEN_YEARS_S)
    plenty = Limit(10**9, _TEN_YEARS_S)
    charge = PLAIN
    rules = Rules(limit, algorithm=arguments.algorithm)
    if arguments.several:
        # The organization's is the one that ends, over keys of which each process has its own.
        rules = Rules(plenty, algorithm=arguments.algorithm, organization=limit)
        charge = Charge(1, "exports", "exports", plenty.requests, plenty.window_s)
    limiter = LocalLimiter(rules, SystemClock(), 1000)
    await limiter.keep_in(arguments.file)
    quota = Quota()
    key = f"key {os.getpid()}" if arguments.several else "key"
    os.write(_STDOUT, READY)
    while True:
        limiter.attend()
        if not select.select([sys.stdin], [], [], _TURN_S)[0]:
            continue
        line = sys.stdin.readline()
        if not line:
            break
        for number in range(int(line)):
            if limiter.admit(key, quota, "org", charge).allowed:
                os.write(_STDOUT, PASSED)
            if number % _TURN == 0:
                limiter.attend()
        os.write(_STDOUT, READY)
    limiter.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--algorithm", required=True)
    parser.add_argument("--several", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(hammer(_arguments()))
