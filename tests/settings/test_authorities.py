"""Who vouches for upstreams, and what they are shown: what is wrong is said before the start."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from sidecar.settings.authorities import client_context, trust
from sidecar.settings.key_pairs import FILE_BYTES, CertificateError
from tests.certificates import BROKEN, PASSWORD, Authority, Files, encrypt
from tests.settings.configs import config, lines_in, problem_in, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def upstream(tls: str) -> str:
    return config(f'upstreams.api = {{ urls = ["https://api"], tls = {{ {tls} }} }}')


def test_servers_are_always_verified() -> None:
    context = client_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.get_ca_certs() == []


def test_with_an_own_authority_no_other_is_trusted(authority: Authority, tmp_path: Path) -> None:
    context = client_context()
    trust(context, authority.write_root(tmp_path / "ca.pem"))
    assert len(context.get_ca_certs()) == 1


def test_without_one_the_systems_are(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.write_root(tmp_path / "system.pem")))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    context = client_context()
    trust(context, None)
    assert len(context.get_ca_certs()) == 1


def test_a_file_may_hold_several_authorities_and_notes(
    authority: Authority, tmp_path: Path
) -> None:
    first, second = (
        each.write_root(tmp_path / "a").read_bytes() for each in (authority, Authority())
    )
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes("# Für uns\n".encode() + first + b"\n# and\n" + second)
    context = client_context()
    trust(context, bundle)
    assert len(context.get_ca_certs()) == 2


def test_files_are_found_beside_the_configuration(authority: Authority, tmp_path: Path) -> None:
    authority.write_root(tmp_path / "ca.pem")
    authority.issue(tmp_path, name="sidecar")
    names = 'ca_file = "ca.pem", cert_file = "sidecar.crt", key_file = "sidecar.key"'
    tls = read(upstream(names), base=tmp_path).upstreams["api"].tls
    assert (tls.ca_file, tls.key_file) == (tmp_path / "ca.pem", tmp_path / "sidecar.key")


def remove(path: Path) -> None:
    path.unlink()


def to_der(path: Path) -> None:
    path.write_bytes(ssl.PEM_cert_to_DER_cert(path.read_text()))


def spoil(path: Path) -> None:
    path.write_text(path.read_text().replace("MII", "MIX", 1))


def enlarge(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n" * FILE_BYTES)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "cannot be read: no such file or directory"),
        (to_der, "holds no certificate in PEM"),
        (spoil, "holds a certificate that cannot be read"),
        (enlarge, "is larger than 1048576 bytes"),
        (to_folder, "is not a regular file"),
    ],
)
def test_an_authority_that_cannot_be_used_is_told(
    authority: Authority, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = authority.write_root(tmp_path / "ca.pem")
    text = upstream(f'ca_file = "{path}"')
    read(text)
    damage(path)
    assert str(problem_in(text)) == f"upstreams.api.tls.ca_file: {message}"
    with pytest.raises(CertificateError) as caught:
        trust(client_context(), path)
    assert str(tmp_path) not in str(caught.value), "its name may come from the environment"


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_certificate_to_show_that_cannot_be_used_is_told(
    authority: Authority, tmp_path: Path, damage: Callable[[Files], object], message: str
) -> None:
    files = Files(authority, *authority.issue(tmp_path))
    text = upstream(f'cert_file = "{files.certificate}", key_file = "{files.key}"')
    read(text)
    damage(files)
    assert str(problem_in(text)) == f"upstreams.api.tls.{message}"


def test_an_encrypted_key_opens_with_its_password(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue(tmp_path)
    encrypt(key)
    names = f'cert_file = "{certificate}", key_file = "{key}", key_password = "env:PASSWORD"'
    read(upstream(names), {"PASSWORD": PASSWORD})
    (line,) = lines_in(upstream(names), {"PASSWORD": "another"})
    assert line == "upstreams.api.tls.key_password: does not open the key in key_file"


@pytest.mark.parametrize(("one", "other"), [("cert_file", "key_file"), ("key_file", "cert_file")])
def test_certificate_and_key_come_together(one: str, other: str) -> None:
    problem = problem_in(upstream(f'{one} = "sidecar.pem"'))
    assert str(problem) == f"upstreams.api.tls.{one}: needs {other} beside it"


def test_all_that_is_wrong_is_told_at_once() -> None:
    text = upstream('ca_file = "ca.pem", cert_file = 1, verify = false, server_name = "a b"')
    tls = "upstreams.api.tls"
    assert [line.partition(":")[0] for line in lines_in(text)] == [
        *(f"{tls}.ca_file", f"{tls}.cert_file", f"{tls}.cert_file"),
        *(f"{tls}.verify", f"{tls}.server_name"),
    ]
