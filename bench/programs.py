"""Programs that other people build well: the machine's own, or Debian's, fetched and unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WORK = Path(__file__).parent / ".work"
"""Fetched programs, and the files of the run that goes on."""

_FETCH_S = 120
# Where Debian puts servers is not on the search path of every user.
_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs, and what it needs in its environment."""

    path: Path
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)


def find_program(name: str, *, cache: Path = WORK) -> Program | None:
    """Return a program that tells its version when it is asked with `-v`, or None.

    Looked for on the search path, then in *cache*; else Debian's package of the same name is
    unpacked there. That needs apt-get but no root, and installs nothing.
    """
    if (installed := shutil.which(name, path=_SEARCH)) is not None:
        return _try(name, Path(installed), {})
    unpacked = cache / name
    if (program := _unpacked(name, unpacked)) is None and _fetch(name, unpacked):
        program = _unpacked(name, unpacked)
    return program


def _unpacked(name: str, directory: Path) -> Program | None:
    path = next((found for found in directory.glob(f"usr/*bin/{name}")), None)
    if path is None:
        return None
    libraries = os.pathsep.join(sorted({str(lib.parent) for lib in directory.rglob("*.so*")}))
    return _try(name, path, {"LD_LIBRARY_PATH": libraries} if libraries else {})


def _try(name: str, path: Path, environment: Mapping[str, str]) -> Program | None:
    """Return the program if it starts: an unpacked one may lack a library."""
    try:
        said = subprocess.run(
            [str(path), "-v"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,  # wrk tells its version and ends with 1
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = parse_version(name, said.stdout + said.stderr)
    return None if version is None else Program(path, version, environment)


def parse_version(name: str, said: str) -> str | None:
    """Return the version out of `wrk 4.1.0 …` or `nginx version: nginx/1.22.1`, else None."""
    for word in said.replace("/", " ").split():
        if name in said and word[:1].isdigit():
            return word
    return None


def _fetch(name: str, unpacked: Path) -> bool:
    """Unpack Debian's package and, where it does not run alone, the libraries that it names."""
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    try:
        if not _download([name], unpacked):
            # A fresh machine has no package lists; only root may fetch them.
            _call("apt-get", "update")
            _download([name], unpacked)
        if _unpacked(name, unpacked) is None:
            _download(parse_libraries(_call("apt-cache", "depends", name)), unpacked)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _download(packages: list[str], unpacked: Path) -> bool:
    """Fetch and unpack; returns whether apt-get knew the packages."""
    try:
        _call("apt-get", "download", *packages, cwd=unpacked)
    except subprocess.CalledProcessError:
        return False
    for package in unpacked.glob("*.deb"):
        _call("dpkg-deb", "--extract", str(package), str(unpacked))
        package.unlink()
    return True


def parse_libraries(said: str) -> list[str]:
    """Return the libraries of `apt-cache depends`, all alternatives, the C library left out."""
    names = []
    for line in said.splitlines():
        kind, _, name = line.strip().lstrip("|").partition(": ")
        if kind == "Depends" and name.startswith(("lib", "zlib")) and name != "libc6":
            names.append(name)
    return names


def _call(*argv: str, cwd: Path | None = None) -> str:
    return subprocess.run(
        argv, cwd=cwd, capture_output=True, text=True, check=True, timeout=_FETCH_S
    ).stdout
