"""Changes of rows in one SQLite database, in one transaction."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def change_rows(
    path: Path, busy_timeout_s: float, sql: str, rows: Sequence[Sequence[object]]
) -> list[bool]:
    """Run *sql* with each of *rows* in the database at *path*; tell which of them changed a row.

    It connects for this alone, waits up to *busy_timeout_s* for another process's lock, and may
    block. Raises sqlite3.Error; then nothing was changed.
    """
    database = f"{path.as_uri()}?mode=rw"
    with closing(
        sqlite3.connect(database, uri=True, timeout=busy_timeout_s, isolation_level=None)
    ) as connection:
        # At once for writing: who reads first and finds another's lock afterwards must give up.
        connection.execute("BEGIN IMMEDIATE")
        changed = [connection.execute(sql, row).rowcount > 0 for row in rows]
        connection.execute("COMMIT")
    return changed
