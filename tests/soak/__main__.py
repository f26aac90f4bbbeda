"""`python -m tests.soak --minutes 5`: exits 0 if nothing was wrong and nothing was left, else 1."""

from __future__ import annotations

import argparse
import secrets
import sys
from typing import TYPE_CHECKING

import uvloop

from tests.soak.processes import StageError
from tests.soak.report import render
from tests.soak.run import Plan, soak

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.processes import LogKind

_LOGS: tuple[LogKind, ...] = ("pipe", "file")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="soak", description=sys.modules["tests.soak"].__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="default: 5")
    parser.add_argument(
        "--seed",
        default=secrets.token_hex(4),
        metavar="TEXT",
        help="the same seed gives each client the same requests and faults in the same order",
    )
    parser.add_argument("--clients", type=int, default=32, metavar="N", help="default: 32")
    parser.add_argument(
        "--log", choices=_LOGS, help="where the access log goes; default: half the time each"
    )
    options = parser.parse_args(arguments)
    logs: tuple[LogKind, ...] = _LOGS if options.log is None else (options.log,)
    status = 0
    for log in logs:
        plan = Plan(60 * options.minutes / len(logs), options.seed, log, clients=options.clients)
        print(f"{plan.seconds:.0f} s, seed {plan.seed}, log to a {log} …", flush=True)
        try:
            verdict = uvloop.run(soak(plan))
        except StageError as error:
            print(f"soak: {error}", file=sys.stderr)
            return 2
        print(render(verdict), flush=True)
        status = status or int(not verdict.is_good)
    return status


if __name__ == "__main__":
    sys.exit(main())
