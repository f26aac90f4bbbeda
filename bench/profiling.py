"""Where the sidecar spends its time under plain requests: py-spy's samples, summed up."""

from __future__ import annotations

import collections
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.peers.base import Peer
    from bench.rounds import Bench

_RATE_HZ = 500
_SHOWN = 40
_LOOP_THREAD = "MainThread"
_OURS = "(sidecar/"


def profile(bench: Bench, peer: Peer) -> str:
    """Sample the proxy while plain requests pass, and return its functions by time spent.

    Raises BenchError where py-spy is missing or may not look (it reads another process's memory:
    root, or a kernel that allows it).
    """
    program = Path(sys.executable).with_name("py-spy")
    found = str(program) if program.exists() else shutil.which("py-spy")
    if found is None:
        raise BenchError("py-spy is not installed; `make bench` installs it")
    samples = bench.stage.directory / "samples.txt"
    seconds = round(bench.plan.requests_s)
    with bench.stage.upstreams(), bench.stage.proxy(peer) as proxy:
        bench.load_requests(bench.plan.warmup_s)
        argv = [found, "record", "--pid", str(proxy.pid), "--native", "--threads", "--function"]
        argv += ["--rate", str(_RATE_HZ), "--duration", str(seconds)]
        argv += ["--format", "raw", "--output", str(samples)]
        load = threading.Thread(target=bench.load_requests, args=(seconds + 2,))
        load.start()
        try:
            subprocess.run(argv, capture_output=True, check=True, text=True, timeout=seconds + 60)
        except subprocess.CalledProcessError as error:
            raise BenchError(f"py-spy failed: {error.stderr.strip()[-500:]}") from error
        finally:
            load.join()
    return summary(samples.read_text().splitlines())


def summary(lines: Iterable[str]) -> str:
    """Return a table of functions from collapsed stacks (`thread;outer;inner COUNT` a line).

    The loop's thread alone: others wait, and py-spy takes waiting in C for work.
    """
    own: collections.Counter[str] = collections.Counter()
    within: collections.Counter[str] = collections.Counter()
    total = 0
    for line in lines:
        stack, _, count_text = line.rpartition(" ")
        count = int(count_text)
        thread, *frames = stack.split(";")
        if _LOOP_THREAD not in thread or not frames:
            continue
        own[frames[-1]] += count
        for frame in {frame for frame in frames if _OURS in frame}:
            within[frame] += count
        total += count
    if not total:
        raise BenchError("py-spy took no sample")
    sections = (("in itself", own), ("with all that it calls, the sidecar's own", within))
    return "\n\n".join(_section(title, counts, total) for title, counts in sections)


def _section(title: str, counts: Mapping[str, int], total: int) -> str:
    shown = sorted(counts.items(), key=lambda item: -item[1])[:_SHOWN]
    rows = [f"{100 * count / total:6.1f} %  {frame}" for frame, count in shown]
    return "\n".join([f"{title}:", *rows])
