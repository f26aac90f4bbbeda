"""The file: found again, shared, carried over, or set aside; and the time that it keeps."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import struct
from typing import TYPE_CHECKING

import pytest

from sidecar.identity import Quota
from sidecar.limits import locks, mutexes, table_file
from sidecar.limits.local import LocalLimiter
from sidecar.limits.mutexes import MUTEX_BYTES
from sidecar.limits.policy import Limit, Rules
from sidecar.limits.table import LOCKS, SLOTS, size_of
from sidecar.limits.table_file import TableFile, TableUnusable
from tests.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.limits.mutexes import Mutex
    from sidecar.limits.policy import Algorithm

QUOTA = Quota()
HERE = b"this boot"


class Host:
    """A machine with a file, and limiters of five requests in 100 s that come and go on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.boot = HERE
        self.limiters: list[LocalLimiter] = []

    async def start(self, entries: int = 10, algorithm: Algorithm = "fixed-window") -> LocalLimiter:
        limiter = LocalLimiter(Rules(Limit(5, 100.0), algorithm=algorithm), self.clock, entries)
        self.limiters.append(limiter)
        await limiter.keep_in(self.path)
        return limiter

    def stop(self, limiter: LocalLimiter) -> None:
        limiter.close()
        self.limiters.remove(limiter)

    async def restart(self, limiter: LocalLimiter) -> LocalLimiter:
        self.stop(limiter)
        return await self.start()

    def reboot(self, wall: float) -> None:
        self.clock = ManualClock(wall, 10.0)
        self.boot += b"+"


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    host = Host(tmp_path / "limits")
    monkeypatch.setattr(table_file, "_read_boot", lambda: host.boot.ljust(36, b"\0"))
    yield host
    for limiter in host.limiters:
        limiter.close()


def passing(limiter: LocalLimiter, attempts: int = 10, key: str = "key") -> int:
    return sum(limiter.admit(key, QUOTA).allowed for _ in range(attempts))


def is_shared(limiter: LocalLimiter) -> bool:
    return limiter.table.is_shared


async def until_let_in(
    host: Host, opened: LocalLimiter, entries: int = 10, algorithm: Algorithm = "fixed-window"
) -> LocalLimiter:
    """Start another limiter, while the first one attends."""
    starting = asyncio.create_task(host.start(entries, algorithm))
    while not starting.done():
        opened.attend()
        await asyncio.sleep(0.001)
    return await starting


async def test_counts_outlive_the_process(host: Host) -> None:
    limiter = await host.start()
    assert passing(limiter, 3) == 3
    limiter = await host.restart(limiter)
    assert passing(limiter) == 2
    limiter = await host.restart(limiter)
    assert passing(limiter) == 0
    host.clock.advance(100)
    assert passing(limiter) == 5


async def test_nobody_else_may_read_the_file(host: Host) -> None:
    await host.start()
    assert host.path.stat().st_mode & 0o777 == 0o600


async def test_it_names_no_key(host: Host) -> None:
    passing(await host.start(), key="key-of-somebody")
    assert b"somebody" not in host.path.read_bytes()


# Sharing


async def test_two_count_together(host: Host) -> None:
    first = await host.start()
    assert passing(first, 2) == 2
    second = await until_let_in(host, first)
    assert [first.admit("key", QUOTA).allowed, second.admit("key", QUOTA).allowed] == [True, True]
    assert passing(first, 1) + passing(second, 5) + passing(first, 5) == 1


async def test_who_is_alone_again_locks_no_more(host: Host) -> None:
    first = await host.start()
    assert not is_shared(first)
    second = await until_let_in(host, first)
    assert is_shared(first)
    assert is_shared(second)
    host.stop(first)
    second.attend()
    assert is_shared(second), "somebody may still be coming in"
    host.clock.advance(2 * table_file.WAIT_S)
    second.attend()
    assert not is_shared(second)
    assert passing(second) == 5


async def test_one_of_several_shares_from_the_begin(host: Host) -> None:
    limiters = []
    for _ in range(3):
        limiter = LocalLimiter(Rules(Limit(5, 100.0)), host.clock, 10)
        limiters.append(limiter)
        host.limiters.append(limiter)
        await limiter.keep_in(host.path, is_alone=False)
    assert [passing(limiter, 2) for limiter in limiters] == [2, 2, 1]
    for limiter in limiters[1:]:
        host.stop(limiter)
    host.clock.advance(2 * table_file.WAIT_S)
    limiters[0].attend()
    assert is_shared(limiters[0]), "the others are started again"


async def test_who_still_shares_goes_on_locking(host: Host) -> None:
    first = await host.start()
    second = await until_let_in(host, first)
    host.clock.advance(100)
    for limiter in (first, second):
        limiter.attend()
        assert is_shared(limiter)


async def test_who_is_not_let_in_says_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "WAIT_S", 0.1)
    await host.start()
    with pytest.raises(TableUnusable, match="another process holds it and does not share it"):
        await host.start()
    assert passing(host.limiters[-1]) == 5, "it counts where it did"


async def test_who_was_stopped_while_it_counted_holds_nobody_up_for_long(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutexes, "PATIENCE_S", 0.01)
    first = await host.start()
    second = await until_let_in(host, first)
    lock = first.table.lock(first.table.tag(b"key\0key"))
    lock.take()
    assert passing(second, 3) == 3
    assert second.table.locks is not None
    assert second.table.locks.given_up == 3
    lock.free()
    assert passing(second, 3) == 2
    assert second.table.locks.given_up == 3


async def test_a_budget_goes_to_another_slot_where_somebody_took_its_own(host: Host) -> None:
    first = await host.start()
    second = await until_let_in(host, first)
    assert passing(first, 3) == 3
    slot = second.table.find(second.table.tag(b"key\0key"))
    assert slot is not None
    second.table.words[slot >> 3] = 0
    assert passing(first, 9) == 5


def lock_of(limiter: LocalLimiter, key: str) -> Mutex:
    return limiter.table.lock(limiter.table.tag(f"key\0{key}".encode()))


def locked_by_themselves(limiter: LocalLimiter, begin: int, number: int, name: str) -> list[str]:
    """Return names of so many keys whose locks are no others', from the one that *begin*s."""
    places: dict[int, str] = {}
    for each in itertools.count():
        key = f"{name}-{each}"
        place = lock_of(limiter, key).place
        if begin <= place < begin + 300:
            places.setdefault(place, key)
        if len(places) == number:
            return list(places.values())
    raise AssertionError


async def test_slots_of_others_are_taken_where_all_are_used(host: Host) -> None:
    """But for those that somebody is counting with right now."""
    first = await host.start()
    second = await until_let_in(host, first)
    keys, others, more = (
        locked_by_themselves(first, begin, 60, name)
        for begin, name in ((0, "key"), (300, "other"), (600, "more"))
    )
    for key, other in zip(keys, others, strict=True):
        assert passing(first, 1, key) == 1
        assert passing(second, 1, other) == 1
    held = [lock_of(first, key) for key in keys]
    for lock in held:
        assert lock.take()
    for name in more:
        assert passing(second, 1, name) == 1
    for lock in held:
        lock.free()
    assert all(passing(first, 9, key) == 4 for key in keys)
    assert second.table.evicted == 60 - (2 * SLOTS - 120)


async def test_one_that_is_being_used_is_taken_where_all_are(host: Host) -> None:
    first = await host.start()
    second = await until_let_in(host, first)
    another, *names = locked_by_themselves(first, 0, 2 * SLOTS + 1, "key")
    for name in names:
        assert passing(first, 1, name) == 1
    held = [lock_of(first, name) for name in names]
    for lock in held:
        lock.take()
    assert passing(second, 1, another) == 1
    assert second.table.evicted == 1
    for lock in held:
        lock.free()


# Time


@pytest.mark.parametrize("jump_s", [-1e6, -50.0, 50.0, 1e6])
async def test_a_clock_that_was_set_changes_no_window(host: Host, jump_s: float) -> None:
    limiter = await host.start()
    passing(limiter)
    host.clock.set_wall(host.clock.time() + jump_s)
    limiter = await host.restart(limiter)
    assert limiter.admit("key", QUOTA).retry_after_s == 100


@pytest.mark.parametrize(
    ("down_s", "wait_s"),
    [
        pytest.param(30.0, 70, id="30-s"),
        pytest.param(1000.0, 0, id="longer-than-the-window"),
        pytest.param(-30.0, 100, id="clock-behind"),
        pytest.param(-1.7e9, 100, id="no-clock-at-all"),
    ],
)
async def test_a_boot_goes_on_by_the_wall_clock_but_never_back(
    host: Host, down_s: float, wait_s: int
) -> None:
    limiter = await host.start()
    passing(limiter)
    host.stop(limiter)
    host.reboot(host.clock.time() + down_s)
    limiter = await host.start()
    assert limiter.admit("key", QUOTA).retry_after_s == wait_s


@pytest.mark.parametrize("latest", [float("nan"), float("inf"), 1e12, -1e300])
async def test_a_moment_that_nobody_saw_is_not_waited_for(host: Host, latest: float) -> None:
    limiter = await host.start()
    passing(limiter)
    host.stop(limiter)
    with host.path.open("r+b") as file:
        file.seek(512)
        file.write(struct.pack("=d", latest))
    host.reboot(host.clock.time() + 30)
    assert (await host.start()).admit("key", QUOTA).retry_after_s == 70


async def test_without_a_boots_name_the_wall_clock_counts(host: Host) -> None:
    host.boot = b""
    limiter = await host.start()
    passing(limiter)
    host.clock.advance(30)
    limiter = await host.restart(limiter)
    assert limiter.admit("key", QUOTA).retry_after_s == 70


async def test_another_machine_is_not_let_in(host: Host) -> None:
    first = await host.start()
    await until_let_in(host, first)
    host.boot += b"+"
    with pytest.raises(TableUnusable, match="another machine uses it"):
        await host.start()


def test_this_boot_has_a_name_where_the_system_gives_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(table_file._read_boot()) == 36  # noqa: SLF001
    monkeypatch.setattr(table_file, "_BOOT_ID", tmp_path / "none")
    assert table_file._read_boot() == bytes(36)  # noqa: SLF001


# Other sizes and forms


async def test_another_size_keeps_the_counts(host: Host) -> None:
    limiter = await host.start(10)
    assert passing(limiter, 3) == 3
    for entries in (10_000, 20):
        host.stop(limiter)
        limiter = await host.start(entries)
        assert host.path.stat().st_size == len(limiter.table.buffer) + LOCKS * MUTEX_BYTES
        assert limiter.peek("key", QUOTA).remaining == 2
    assert passing(limiter) == 2


async def test_the_size_of_those_who_use_it_is_taken(host: Host) -> None:
    first = await host.start(10)
    passing(first, 3)
    second = await until_let_in(host, first, 10_000)
    assert len(second.table.buffer) == len(first.table.buffer)
    assert passing(second) == 2


async def test_another_algorithm_begins_anew(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    limiter = await host.start()
    passing(limiter)
    host.stop(limiter)
    with caplog.at_level(logging.INFO):
        limiter = await host.start(algorithm="token-bucket")
    assert f"{host.path} was of another form, and begins anew" in caplog.text
    assert passing(limiter) == 5
    with pytest.raises(TableUnusable, match="counts in it in another way"):
        await until_let_in(host, limiter)


# Broken files


async def test_every_byte_of_the_head_may_be_wrong(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = await host.start()
    assert passing(limiter, 3) == 3
    host.stop(limiter)
    whole = host.path.read_bytes()
    for at in range(576):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        host.path.write_bytes(damaged)
        limiter = await host.start()
        assert passing(limiter) in (2, 5), at
        host.clock.advance(100)
        assert passing(limiter) == 5, at
        host.stop(limiter)
    assert "is broken, or something else: it is set aside" in caplog.text


@pytest.mark.parametrize("algorithm", ["fixed-window", "sliding-window", "token-bucket"])
async def test_every_byte_of_a_slot_may_be_wrong(host: Host, algorithm: Algorithm) -> None:
    """Then as many as in one window pass at most, and none for two windows at worst."""
    limiter = await host.start(algorithm=algorithm)
    assert passing(limiter, 3) == 3
    slot = limiter.table.find(limiter.table.tag(b"key\0key"))
    assert slot is not None
    whole = limiter.table.buffer[:]
    for at in range(slot, slot + 56):
        for bits in (0x01, 0x80, 0xFF):
            limiter.table.buffer[:] = whole
            limiter.table.buffer[at] ^= bits
            assert passing(limiter) <= 5
            host.clock.advance(200.1)
            assert passing(limiter) == 5


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"x", id="short"),
        pytest.param(b"# a text of somebody's\n" * 100, id="text"),
        pytest.param(bytes(size_of(2) + LOCKS * MUTEX_BYTES), id="zeros"),
    ],
)
async def test_what_is_no_table_is_set_aside(
    host: Host, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    host.path.write_bytes(content)
    limiter = await host.start()
    assert passing(limiter) == 5
    assert limiter.files_set_aside == 1
    aside = host.path.with_name("limits.broken")
    assert aside.read_bytes() == content
    assert f"{host.path} is broken, or something else: it is set aside as {aside}" in caplog.text


async def test_a_file_that_was_cut_off_is_set_aside(host: Host) -> None:
    host.stop(await host.start())
    os.truncate(host.path, size_of(1))
    limiter = await host.start()
    assert limiter.files_set_aside == 1
    assert passing(limiter) == 5


async def test_what_others_use_is_not_set_aside(host: Host) -> None:
    first = await host.start()
    second = await until_let_in(host, first)
    second.table.buffer[0] ^= 1
    with pytest.raises(TableUnusable, match="another process uses it as something else"):
        await host.start()
    assert host.path.exists()


async def test_what_others_lock_in_another_way_is_left_to_them(host: Host) -> None:
    first = await host.start()
    second = await until_let_in(host, first)
    second.table.buffer[528:533] = b"other"
    with pytest.raises(TableUnusable, match="another process locks it in another way"):
        await host.start()


async def test_who_comes_first_makes_the_locks_anew(host: Host) -> None:
    """Whatever they were when the machine was switched off."""
    limiter = await host.start()
    assert passing(limiter, 3) == 3
    host.stop(limiter)
    whole = bytearray(host.path.read_bytes())
    whole[size_of(2) :] = b"\xa5" * (len(whole) - size_of(2))
    host.path.write_bytes(whole)
    first = await host.start()
    second = await until_let_in(host, first)
    assert passing(first, 1) + passing(second, 9) == 2


async def test_a_file_that_is_set_aside_meanwhile_is_left(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else opened the broken one, too, and was quicker."""
    host.path.write_bytes(b"broken")
    take = locks.Lock.take_at_once

    def after_another(lock: locks.Lock) -> bool:
        monkeypatch.undo()
        host.path.replace(host.path.with_name("elsewhere"))
        host.path.touch()
        return take(lock)

    monkeypatch.setattr(locks.Lock, "take_at_once", after_another)
    limiter = await host.start()
    assert passing(limiter) == 5
    assert limiter.files_set_aside == 0
    assert host.path.with_name("elsewhere").read_bytes() == b"broken"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        pytest.param("none/limits", "No such file or directory", id="no-directory"),
        pytest.param(".", "Is a directory", id="directory"),
        pytest.param("pipe", "not a regular file", id="pipe"),
    ],
)
async def test_what_cannot_be_used_is_told(
    host: Host, tmp_path: Path, place: str, message: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    host.path = tmp_path / place
    with pytest.raises(TableUnusable, match=message):
        await host.start()
    assert passing(host.limiters[-1]) == 5, "it counts in memory"


async def test_a_disk_without_room_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TableUnusable, match="No space left on device"):
        await host.start()


async def test_so_is_a_system_without_such_locks(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_file, "IS_AVAILABLE", False)
    with pytest.raises(TableUnusable, match="no locks that die with whoever holds them"):
        await host.start()


async def test_it_is_closed_as_often_as_one_likes(host: Host) -> None:
    file = TableFile(host.path, 10, "fixed-window", host.clock)
    file.attend()
    file.close()
    await file.open()
    file.close()
    file.close()
