"""The certificate that clients are shown, and how a change of its files is followed."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.certificates import Certificate
from sidecar.settings.key_pairs import KeyPair
from tests.certificates import BROKEN, DAY, HOST, NOW, Authority, Files, serial_number
from tests.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def clock_at(time: datetime) -> ManualClock:
    return ManualClock(time=time.timestamp())


def shown_by(certificate: Certificate, authority: Authority) -> str:
    """Return the serial number of what a client is shown now."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.client_context().wrap_bio(incoming, outgoing, server_hostname=HOST)
    server = certificate.context.wrap_bio(outgoing, incoming, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return serial_number(client)


@pytest.fixture
def followed(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> tuple[Certificate, Files]:
    """Return a certificate that is in use, and its files."""
    caplog.set_level(logging.INFO, "sidecar")
    files = Files(authority, *authority.issue(tmp_path, begins=NOW - DAY, ends=NOW + 90 * DAY))
    made = Certificate(KeyPair(files.certificate, files.key), clock_at(NOW))
    made.load()
    assert caplog.messages == []
    return made, files


def test_a_new_pair_is_shown_once_its_files_stand_still(
    followed: tuple[Certificate, Files], caplog: pytest.LogCaptureFixture
) -> None:
    certificate, files = followed
    before = shown_by(certificate, files.authority)
    certificate.look()
    assert shown_by(certificate, files.authority) == before
    files.authority.issue(files.key.parent, begins=NOW, ends=NOW + 60 * DAY)
    certificate.look()
    assert shown_by(certificate, files.authority) == before, "it may be changing yet"
    certificate.look()
    after = shown_by(certificate, files.authority)
    assert after != before
    certificate.look()
    assert shown_by(certificate, files.authority) == after
    assert caplog.messages == ["listen.tls: a new certificate, until 2027-01-22"]


def test_a_pair_that_is_replaced_in_two_steps_is_never_complained_of(
    followed: tuple[Certificate, Files], caplog: pytest.LogCaptureFixture
) -> None:
    certificate, files = followed
    before = shown_by(certificate, files.authority)
    newer = files.authority.issue(files.key.parent, ends=NOW + 60 * DAY, name="newer")
    newer[0].replace(files.certificate)
    certificate.look()
    newer[1].replace(files.key)
    certificate.look()
    assert shown_by(certificate, files.authority) == before
    certificate.look()
    assert shown_by(certificate, files.authority) != before
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_pair_that_cannot_be_used_leaves_the_one_before(
    followed: tuple[Certificate, Files],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Files], object],
    message: str,
) -> None:
    certificate, files = followed
    before = shown_by(certificate, files.authority)
    damage(files)
    for _ in range(5):
        certificate.look()
    assert shown_by(certificate, files.authority) == before
    (told,) = caplog.messages
    assert told == f"listen.tls.{message}; the certificate from before stays in use"

    for path in (files.certificate, files.key):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
    files.authority.issue(files.key.parent)
    certificate.look()
    certificate.look()
    assert shown_by(certificate, files.authority) != before, "and is followed on"


def test_a_folder_that_a_link_leads_to_may_be_swapped(authority: Authority, tmp_path: Path) -> None:
    """As the contents of a Kubernetes secret are: files, links to them, and a link to all of it."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        authority.issue(tmp_path / name)
    data = tmp_path / "..data"
    data.symlink_to("first")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    made = Certificate(KeyPair(tmp_path / "tls.crt", tmp_path / "tls.key"), clock_at(NOW))
    made.load()
    before = shown_by(made, authority)
    (tmp_path / "..new").symlink_to("second")
    (tmp_path / "..new").replace(data)
    made.look()
    made.look()
    assert shown_by(made, authority) != before


def test_a_connection_keeps_what_it_began_with(followed: tuple[Certificate, Files]) -> None:
    certificate, files = followed
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = files.authority.client_context()
    client = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    server = certificate.context.wrap_bio(outgoing, incoming, server_side=True)
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    files.authority.issue(files.key.parent)
    certificate.look()
    certificate.look()
    client.do_handshake()
    server.do_handshake()
    client.write(b"still here")
    assert server.read(100) == b"still here"
    assert serial_number(client) != shown_by(certificate, files.authority)


def test_the_end_is_warned_of_once_a_day(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = KeyPair(*authority.issue(tmp_path, begins=NOW - DAY, ends=NOW + 15 * DAY))
    clock = clock_at(NOW)
    made = Certificate(pair, clock)
    made.load()
    days = []
    for hour in range(17 * 24):
        made.look()
        days += [hour // 24] * len(caplog.messages)
        caplog.clear()
        clock.advance(3600)
    assert days == [*range(1, 17)]


def test_one_that_has_ended_is_served_with_a_warning(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusing to start would take down what an unwary client still reaches."""
    pair = KeyPair(*authority.issue(tmp_path, begins=NOW - 9 * DAY, ends=NOW - DAY))
    Certificate(pair, clock_at(NOW)).load()
    assert caplog.messages == [
        "listen.tls.cert_file: the certificate expired on 2026-11-22 at 00:00 UTC"
    ]
