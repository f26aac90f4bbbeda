"""The command line: `python -m bench [--load | --freshness | …] …`, `… bench profile`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.credentials import make_credentials
from bench.errors import BenchError
from bench.freshness import FreshnessBench
from bench.freshness_report import freshness_table
from bench.large_store import StoreBench
from bench.limits import LimitsBench
from bench.limits_report import limit_figures, limits_table
from bench.load.closed_loop import ClosedLoop
from bench.load.wrk import Wrk
from bench.load_report import load_table
from bench.machine import describe_machine
from bench.page import (
    FIGURES,
    FRESHNESS_FIGURES,
    LIMITS_FIGURES,
    LOAD_FIGURES,
    STORE_FIGURES,
    write_page,
)
from bench.peers.caddy import CADDY
from bench.peers.envoy import ENVOY
from bench.peers.nginx import NGINX
from bench.peers.sidecar import SIDECAR, SIDECAR_LOGGING
from bench.peers.traefik import TRAEFIK
from bench.plan import (
    FULL,
    FULL_FRESHNESS,
    FULL_LIMITS,
    FULL_LOAD,
    FULL_STORE,
    QUICK,
    QUICK_FRESHNESS,
    QUICK_LIMITS,
    QUICK_LOAD,
    QUICK_STORE,
)
from bench.process import choose_cores, raise_descriptor_limit
from bench.profiling import profile
from bench.programs import WORK, find_program
from bench.report import comparison, load_bound, table
from bench.rounds import Bench
from bench.stage import Stage
from bench.store_report import MISSED, store_table
from bench.store_report import figures as store_rows
from bench.under_load import LoadBench

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.load.requests import Generator
    from bench.peers.base import Peer
    from bench.plan import FreshnessPlan, LimitsPlan, LoadPlan, Plan, StorePlan
    from bench.process import Cores

PEERS = (NGINX, ENVOY, TRAEFIK, CADDY, SIDECAR, SIDECAR_LOGGING)
OURS = (SIDECAR.name, SIDECAR_LOGGING.name)
_QUIET = 0.5
"""Load average up to which a machine has nothing else to do."""
COMPARED_TO = (NGINX.name, ENVOY.name, TRAEFIK.name, CADDY.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _directory() as directory:
            return _run(options, directory)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, directory: Path) -> int:
    if options.freshness:
        return _measure_freshness(_freshness_bench(options, directory), options)
    if options.store:
        return _measure_store(_store_bench(options, directory), options)
    if options.limits:
        return _measure_limits(_limits_bench(options, directory), options)
    if options.load:
        return _measure_load(_load_bench(options, directory), options)
    bench = _bench(options, directory)
    return _profile(bench) if options.profile else _measure(bench, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=sys.modules["bench"].__doc__)
    parser.add_argument(
        "profile",
        nargs="?",
        choices=["profile"],
        help="show where the sidecar spends its time, and measure nothing",
    )
    parser.add_argument(
        "--load",
        action="store_true",
        help="measure busy connections from 64 to 1024, and thousands of idle streams",
    )
    parser.add_argument(
        "--freshness",
        action="store_true",
        help="measure how soon changes in the store are noticed, and the statements that it takes",
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="measure freshness, memory, first uses and floods of bad keys on a large store;"
        " ends with 1 where a bound was missed",
    )
    parser.add_argument(
        "--limits",
        action="store_true",
        help="measure what counting requests costs, in each way; ends with 1 where a bound was"
        " missed",
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        metavar="NAME,…",
        help=f"measure these alone, of: {', '.join(peer.name for peer in PEERS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--write", action="store_true", help="refresh docs/performance.md")
    return parser


def _bench(options: argparse.Namespace, directory: Path) -> Bench:
    plan = QUICK if options.quick else FULL
    if options.rounds is not None:
        plan = replace(plan, rounds=max(1, options.rounds))
    return Bench(plan, _stage(directory, plan.limit_s), _generator(directory))


def _load_bench(options: argparse.Namespace, directory: Path) -> LoadBench:
    plan = QUICK_LOAD if options.quick else FULL_LOAD
    if options.rounds is not None:
        plan = replace(plan, rounds=max(1, options.rounds))
    return LoadBench(plan, _stage(directory, plan.limit_s), _generator(directory))


def _freshness_bench(options: argparse.Namespace, directory: Path) -> FreshnessBench:
    plan = QUICK_FRESHNESS if options.quick else FULL_FRESHNESS
    return FreshnessBench(plan, _cores(plan.limit_s), directory)


def _store_bench(options: argparse.Namespace, directory: Path) -> StoreBench:
    plan = QUICK_STORE if options.quick else FULL_STORE
    if options.rounds is not None:
        plan = replace(plan, rounds=max(1, options.rounds))
    cores = _cores(plan.limit_s)
    return StoreBench(plan, cores, _generator(directory), directory)


def _limits_bench(options: argparse.Namespace, directory: Path) -> LimitsBench:
    plan = QUICK_LIMITS if options.quick else FULL_LIMITS
    if options.rounds is not None:
        plan = replace(plan, rounds=max(1, options.rounds))
    return LimitsBench(plan, _stage(directory, plan.limit_s), _generator(directory))


def _stage(directory: Path, limit_s: int) -> Stage:
    return Stage(_cores(limit_s), make_credentials(), directory)


def _cores(limit_s: int) -> Cores:
    """Set the run up, with this process and so its clients bound to the load's core."""
    if sys.platform != "linux":
        raise BenchError("needs Linux: what the kernel tells of a process is read from /proc")
    _give_up_after(limit_s)
    cores = choose_cores()
    os.sched_setaffinity(0, {cores.load})
    raise_descriptor_limit()
    return cores


def _measure(bench: Bench, options: argparse.Namespace) -> int:
    peers = _chosen(options.only)
    rounds = bench.run(peers)
    versions = {peer.name: peer.version() for peer in peers}
    plan = bench.plan
    made_with = (
        f"- {_named(versions)}; load: {bench.generator.name}, {plan.connections} connections; "
        f"{plan.streams} event streams, one event each every {plan.stream_period_ms} ms."
    )
    notes = [_made_on(bench.stage.cores), made_with, _of_rounds(plan.rounds)]
    if idle := load_bound(rounds):
        notes.append(
            "- Cores not busy, so the load was the bound or other programs took their time, and "
            f"requests a second are too low: {', '.join(idle)}."
        )
    tables = [table(plan, rounds), comparison(plan, rounds, COMPARED_TO, OURS), "\n".join(notes)]
    figures = "\n\n".join(filter(None, tables))
    print(figures)
    raw = {name: [asdict(round_) for round_ in of_one] for name, of_one in rounds.items()}
    _keep(options, bench, versions, raw)
    if options.write:
        write_page(FIGURES, figures)
    return 0


def _measure_load(bench: LoadBench, options: argparse.Namespace) -> int:
    peers = [peer for peer in _chosen(options.only) if not peer.requests_only]
    rounds = bench.run(peers)
    versions = {peer.name: peer.version() for peer in peers}
    plan = bench.plan
    made_with = (
        f"- {_named(versions)}; load: {bench.generator.name}; each stream has an event every "
        f"{plan.stream_period_ms / 1000:g} s; beside the streams, {plan.slow_readers} downloads "
        f"at {plan.slow_rate // 1024} KiB/s each and {plan.paced_rate} requests a second."
    )
    notes = "\n".join((_made_on(bench.stage.cores), made_with, _of_rounds(plan.rounds)))
    figures = f"{load_table(plan, rounds)}\n\n{notes}"
    print(figures)
    raw = {name: [asdict(round_) for round_ in of_one] for name, of_one in rounds.items()}
    _keep(options, bench, versions, raw)
    if options.write:
        write_page(LOAD_FIGURES, figures)
    return 0


def _measure_freshness(bench: FreshnessBench, options: argparse.Namespace) -> int:
    measured = bench.run()
    plan = bench.plan
    made_with = (
        f"- sidecar {SIDECAR.version()}; {plan.samples} changes of each kind, of {plan.at_once} "
        "credentials at a time that are in steady use."
    )
    notes = "\n".join((_made_on(bench.cores), made_with))
    figures = f"{freshness_table(plan, measured)}\n\n{notes}"
    print(figures)
    if options.json is not None:
        raw = {name: asdict(noticed) for name, noticed in measured.items()}
        facts = _facts(bench.cores, {SIDECAR.name: SIDECAR.version()}, plan)
        options.json.write_text(json.dumps({**facts, "stores": raw}, indent=1) + "\n")
    if options.write:
        write_page(FRESHNESS_FIGURES, figures)
    return 0


def _measure_store(bench: StoreBench, options: argparse.Namespace) -> int:
    others = os.getloadavg()[0]
    population, measured = bench.run()
    plan = bench.plan
    rows = store_rows(plan, measured)
    made_with = (
        f"- sidecar {SIDECAR.version()}, load: {bench.generator.name}, {plan.connections} "
        f"connections; {population.rows:,} rows, {population.keys:,} of them keys; "
        f"{plan.active:,} credentials in use; floods of {plan.flood_rate:,} bad keys a second; "
        f"paced: {plan.valid_rate:,} valid requests a second."
    )
    if others > _QUIET:
        made_with += (
            f"\n- Other programs were at work (load average {others:.1f} before): figures of "
            "floods and of single requests are too high."
        )
    notes = "\n".join((_made_on(bench.cores), made_with, _of_rounds(plan.rounds)))
    figures = f"{store_table(rows)}\n\n{notes}"
    print(figures)
    if options.json is not None:
        raw = {name: asdict(each) for name, each in measured.items()}
        facts = _facts(bench.cores, {SIDECAR.name: SIDECAR.version()}, plan)
        options.json.write_text(json.dumps({**facts, "stores": raw}, indent=1) + "\n")
    if options.write:
        write_page(STORE_FIGURES, figures)
    return 1 if any(row.verdict.startswith(MISSED) for row in rows) else 0


def _measure_limits(bench: LimitsBench, options: argparse.Namespace) -> int:
    others = os.getloadavg()[0]
    measured = bench.run()
    plan = bench.plan
    rows = limit_figures(plan, measured)
    made_with = (
        f"- sidecar {SIDECAR.version()}, load: {bench.generator.name}, {plan.connections} "
        f"connections; latency: {plan.paced_rate:,} requests a second; {plan.decisions:,} "
        "decisions of each kind in a round."
    )
    if others > _QUIET:
        made_with += (
            f"\n- Other programs were at work (load average {others:.1f} before): figures are too"
            " high."
        )
    notes = "\n".join((_made_on(bench.stage.cores), made_with, _of_rounds(plan.rounds)))
    figures = f"{limits_table(rows)}\n\n{notes}"
    print(figures)
    if options.json is not None:
        raw = {each.label: list(each.by_store[""]) for each in rows}
        facts = _facts(bench.stage.cores, {SIDECAR.name: SIDECAR.version()}, plan)
        options.json.write_text(json.dumps({**facts, "figures": raw}, indent=1) + "\n")
    if options.write:
        write_page(LIMITS_FIGURES, figures)
    return 1 if any(row.verdict.startswith(MISSED) for row in rows) else 0


def _keep(
    options: argparse.Namespace, bench: Bench | LoadBench, versions: dict[str, str], raw: Any
) -> None:
    """Write all figures where they were asked for."""
    if options.json is not None:
        facts = _facts(bench.stage.cores, versions, bench.plan)
        document = {**facts, "generator": bench.generator.name, "rounds": raw}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def _profile(bench: Bench) -> int:
    print(profile(bench, SIDECAR))
    return 0


def _chosen(names: Sequence[str] | None) -> list[Peer]:
    if names is None:
        return list(PEERS)
    chosen = [peer for peer in PEERS if peer.name in names]
    if unknown := set(names) - {peer.name for peer in chosen}:
        raise BenchError(f"not a proxy of this benchmark: {', '.join(sorted(unknown))}")
    return chosen


def _made_on(cores: Cores) -> str:
    """Return what a reader must know of the machine to judge the figures."""
    machine = describe_machine()
    sides = (
        "the proxy on one core, upstream and load on another"
        if cores.apart
        else "all on one core: requests a second and latency mean little here"
    )
    return (
        f"- {datetime.now(UTC):%Y-%m-%d}, {machine.cpu}, {machine.cores} cores, "
        f"{machine.memory_gib:g} GiB, {machine.kernel}, Python {machine.python}; {sides}."
    )


def _named(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in _programs(versions).items())


def _of_rounds(rounds: int) -> str:
    if rounds == 1:
        return "- One round: a glance, not a measurement."
    return f"- Medians of {rounds} rounds (least-most); ratios are taken round by round."


def _programs(versions: dict[str, str]) -> dict[str, str]:
    """Return versions by program: set-ups of one program are named once."""
    return {name.partition(",")[0]: version for name, version in versions.items()}


def _facts(
    cores: Cores,
    versions: dict[str, str],
    plan: Plan | LoadPlan | FreshnessPlan | StorePlan | LimitsPlan,
) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": asdict(describe_machine()),
        "cores": asdict(cores),
        "versions": versions,
        "plan": asdict(plan),
    }


def _generator(directory: Path) -> Generator:
    if (program := find_program("wrk")) is not None:
        return Wrk(program, directory)
    print("bench: no wrk to be had, loading with our own generator", file=sys.stderr)
    return ClosedLoop()


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Give the run a directory for its files, which hold keys, and remove it afterwards."""
    WORK.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=WORK))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _give_up_after(seconds: int) -> None:
    def give_up(*_: object) -> NoReturn:
        raise BenchError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
