"""The signals by which a process is told to end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def on_stop_signals(again: Callable[[], None]) -> asyncio.Event:
    """Return what SIGTERM or SIGINT set, in place of ending the process; *again* hears the rest.

    Called where a loop runs.
    """
    stopped = asyncio.Event()

    def on_signal() -> None:
        if stopped.is_set():
            again()
        stopped.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stopped
