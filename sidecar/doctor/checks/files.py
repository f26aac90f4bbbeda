"""A SQLite database's files: who may write them, and how they are written."""

from __future__ import annotations

import os
import pwd
import stat
from typing import TYPE_CHECKING

from sidecar.doctor.findings import Finding, ok, problem, warning
from sidecar.settings import SQLiteURL

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.doctor.patient import Patient


async def look(patient: Patient) -> list[Finding]:
    """Look at the rights of the file, its folder, and the files beside it; and at the journal."""
    url = patient.settings.store.url
    if not isinstance(url, SQLiteURL):
        return []
    path = url.path.absolute()
    mode = await patient.inspection.journal_mode()
    found = [*_others(path), *_folder(path, mode), *_readers(path), *_journal(path, mode)]
    return found or [ok(f"its owner may write all of its files; journal mode {mode}")]


def _others(path: Path) -> list[Finding]:
    """Tell of files beside the database that its owner, the application, may not write."""
    database = path.stat()
    found = []
    for suffix in ("-wal", "-shm", "-journal"):
        beside = path.with_name(path.name + suffix)
        try:
            its = beside.stat()
        except FileNotFoundError:
            continue
        if not _may_write(its, database.st_uid, database.st_gid):
            owner, application = _user(its.st_uid), _user(database.st_uid)
            found.append(
                problem(
                    f"{beside.name} belongs to {owner}, and {application}, who owns the database,"
                    " may not write it: the application cannot write its own database",
                    f"chown {database.st_uid}:{database.st_gid} {beside}, and run the sidecar as"
                    " that user or share a group: docs/operating.md, The database's files",
                )
            )
    return found


def _folder(path: Path, mode: str | None) -> list[Finding]:
    if mode != "wal" or os.access(path.parent, os.W_OK):
        return []
    return [
        warning(
            f"{_user(os.geteuid())} may not write in {path.parent}: a database in WAL mode can be"
            " read only while another process has it open",
            "give the sidecar's user the right to write there: docs/operating.md,"
            " The database's files",
        )
    ]


def _readers(path: Path) -> list[Finding]:
    if not path.stat().st_mode & stat.S_IROTH:
        return []
    if not path.parent.stat().st_mode & stat.S_IXOTH:
        return []
    return [
        warning(
            f"every user of this machine may read {path}, and the session tokens in it",
            f"chmod o-r {path}",
        )
    ]


def _journal(path: Path, mode: str | None) -> list[Finding]:
    if mode == "wal":
        return []
    return [
        warning(
            f"journal mode is {mode}: the application cannot commit while anybody reads, and nobody"
            " can read while it commits",
            f"sqlite3 {path} 'PRAGMA journal_mode = WAL', once, as the application's user",
        )
    ]


def _may_write(its: os.stat_result, user: int, group: int) -> bool:
    if its.st_uid == user:
        return bool(its.st_mode & stat.S_IWUSR)
    if its.st_gid == group:
        return bool(its.st_mode & stat.S_IWGRP)
    return user == 0 or bool(its.st_mode & stat.S_IWOTH)


def _user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
