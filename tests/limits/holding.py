"""A process with requests in progress, beside others: `python -m tests.limits.holding …`.

Each request takes one of as many locks as may be in progress. It ends with 1 if there is none left.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sidecar.limits.at_once import AtOnce
from sidecar.limits.locks import Lock
from sidecar.limits.tally import Tally

PASSED = b"."

_STDOUT = 1


def hold(arguments: argparse.Namespace) -> bool:
    """Begin and end requests; return whether there was always a lock left."""
    at_once = AtOnce()
    at_once.share(Tally(arguments.memory), arguments.number)
    claim = at_once.claim({b"organization": arguments.limit, b"key": arguments.limit + 1})
    own = os.open(arguments.witness, os.O_RDWR)
    locks = [Lock(own, place) for place in range(arguments.limit)]
    passed = 0
    while passed < arguments.times:
        held = at_once.begin(claim)
        if held is None:
            os.sched_yield()
            continue
        lock = next((lock for lock in locks if lock.take_at_once()), None)
        if lock is None:
            return False
        passed += 1
        if passed == 1:
            os.write(_STDOUT, PASSED)
        os.sched_yield()
        lock.free()
        at_once.end(held)
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("memory", type=int)
    parser.add_argument("number", type=int)
    parser.add_argument("witness", type=Path)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--times", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(not hold(_arguments()))
