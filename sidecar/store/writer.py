"""Changes of rows in one SQLite database, by a process of its own for each batch."""

from __future__ import annotations

import marshal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.store.base import StoreTimeout

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROGRAM: Final = Path(__file__).with_name("writing.py")
_HANG_S: Final = 60.0
"""After which one that hangs is ended."""


def change_rows(
    path: Path, patience_s: float, sql: str, rows: Sequence[Sequence[object]]
) -> list[bool]:
    """Run *sql* with each of *rows* in the database at *path*; tell which of them changed a row.

    It tries for *patience_s* to find a moment in which nobody else reads or writes, and may block.
    Raises sqlite3.Error, then nothing was changed; StoreTimeout, then nobody knows.

    Another process does it, as locks that SQLite knows nothing of are taken on the database's
    files: those are a process's own, and who lets go of one lets go of SQLite's too (fcntl(2)).
    """
    # The clock is the same in all processes; so its start is part of that time.
    until = time.monotonic() + patience_s
    asked = marshal.dumps((str(path), path.as_uri(), until, sql, [tuple(row) for row in rows]))
    # Isolated, and without what is installed: it starts in a few milliseconds.
    command = (sys.executable, "-I", "-S", str(_PROGRAM))
    try:
        done = subprocess.run(  # noqa: S603 - a program of ours
            command,
            input=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal from the terminal is for its parent
            timeout=_HANG_S + patience_s,
            check=True,
        )
        code, name, changed = marshal.loads(done.stdout)  # noqa: S302 - of a program of ours
    except (subprocess.SubprocessError, EOFError, ValueError, TypeError):
        raise StoreTimeout(f"{path}: the process that writes ended without a word") from None
    if name:
        error = sqlite3.OperationalError(name)
        error.sqlite_errorcode, error.sqlite_errorname = code, name
        raise error
    return [bool(each) for each in changed]
