"""`sidecar run`, with one thing more: on SIGUSR1 it writes what lives in it to a file.

    python -m tests.soak.inspected FILE run --config …

Nothing else differs from the command: the signal does its work between two steps of the loop.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import signal
import sys
from pathlib import Path

from sidecar.cli import main as sidecar


def look() -> dict[str, object]:
    """Return what the tasks run, and the sidecar's and the loop's own objects by type."""
    cycles = gc.collect()
    kinds = collections.Counter(
        f"{type(each).__module__}.{type(each).__qualname__}"
        for each in gc.get_objects()
        if type(each).__module__.partition(".")[0] in {"sidecar", "uvloop"}
    )
    tasks = sorted(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    return {"cycles": cycles, "tasks": tasks, "objects": kinds}


def main() -> None:
    """Run the sidecar's command line."""
    path = Path(sys.argv[1])

    def on_signal(*_: object) -> None:
        written = path.with_suffix(".new")
        written.write_text(json.dumps(look()))
        written.rename(path)

    signal.signal(signal.SIGUSR1, on_signal)
    sidecar(sys.argv[2:])


if __name__ == "__main__":
    main()
