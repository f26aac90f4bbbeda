"""wrk, the load generator of first choice: it leaves the upstream most of their core."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.load.closed_loop import render
from bench.load.requests import Answered, Target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.programs import Program

# wrk runs `done` after the last answer, so the script costs nothing while it measures.
_REPORT = """\
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nBENCH {"requests":%d,"microseconds":%d,"failures":%d,"p50_us":%.1f,"p99_us":%.1f}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
# Each is ready made: what it costs to hand one over is next to nothing.
_IN_TURN = """\
local requests = {{
{requests}
}}
local turn = 0
request = function()
  turn = turn % #requests + 1
  return requests[turn]
end
"""


class Wrk:
    """The generator; see `Generator`."""

    def __init__(self, program: Program, directory: Path) -> None:
        self.name = f"wrk {program.version}"
        self._program = program
        self._directory = directory

    def run(self, targets: Sequence[Target], *, connections: int, seconds: float) -> Answered:
        target = targets[0]
        path = self._directory / "load.lua"
        path.touch(mode=0o600)
        path.write_text(script(targets))
        # wrk knows whole seconds only.
        whole = max(1, round(seconds))
        argv = [str(self._program.path), "--threads", "1", "--connections", str(connections)]
        argv += ["--duration", f"{whole}s", "--timeout", "5s", "--script", str(path)]
        if len(targets) == 1:
            for name, value in target.headers.items():
                argv += ["--header", f"{name}: {value}"]
        argv.append(f"http://{target.host}:{target.port}{target.path}")
        try:
            said = subprocess.run(
                argv,
                env={**os.environ, **self._program.environment},
                capture_output=True,
                text=True,
                check=True,
                timeout=whole + 30,
            )
        except subprocess.SubprocessError as error:
            # Its own text would repeat the command line, and with it the key.
            raise BenchError(f"wrk failed: {type(error).__name__}") from None
        return parse(said.stdout)


def script(targets: Sequence[Target]) -> str:
    """Return what wrk runs: the report at the end, and several *targets* in turn."""
    if len(targets) == 1:
        return _REPORT
    # Text without control characters is written in Lua as it is in JSON.
    lines = ",\n".join(f"  {json.dumps(render(target).decode())}" for target in targets)
    return _IN_TURN.format(requests=lines) + _REPORT


def parse(output: str) -> Answered:
    """Return what the script reported at the end of wrk's output.

    Raises BenchError where it did not.
    """
    for line in output.splitlines():
        if line.startswith("BENCH "):
            said = json.loads(line.removeprefix("BENCH "))
            return Answered(
                requests=said["requests"],
                seconds=said["microseconds"] / 1e6,
                failures=said["failures"],
                p50_ms=said["p50_us"] / 1000,
                p99_ms=said["p99_us"] / 1000,
            )
    raise BenchError("wrk did not report what it measured")
