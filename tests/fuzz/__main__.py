"""`python -m tests.fuzz`: feeds every oracle for a while, and keeps what is worth it."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.oracles import CORPUS, ORACLES

_WORK = Path(__file__).parents[2] / "build" / "fuzz"
"""What earlier runs have come upon, and what broke an oracle."""
_DICTIONARY = CORPUS / "dictionary.txt"
_OPTIONS = ("-max_len=4096", "-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1")


def main() -> int:
    """Return 1 where an oracle was broken, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all together (default: 60)")
    parser.add_argument(
        "--keep", action="store_true", help="add to the corpus what reaches code that it does not"
    )
    parser.add_argument("oracles", nargs="*", metavar="ORACLE", help=", ".join(ORACLES))
    arguments = parser.parse_args()
    names = arguments.oracles or list(ORACLES)
    if unknown := set(names) - set(ORACLES):
        parser.error(f"no such oracle: {', '.join(sorted(unknown))}")
    seconds = max(1, arguments.seconds // len(names))
    broken = [name for name in names if not _feed(name, seconds)]
    if arguments.keep:
        for name in names:
            _keep(name)
    for name in broken:
        print(f"{name}: broken by {_WORK / name}-*", file=sys.stderr)
    return 1 if broken else 0


def _feed(name: str, seconds: int) -> bool:
    """Feed one oracle; returns whether it held."""
    found = _WORK / name
    found.mkdir(parents=True, exist_ok=True)
    return _run(
        name,
        *_OPTIONS,
        f"-max_total_time={seconds}",
        f"-dict={_DICTIONARY}",
        f"-artifact_prefix={_WORK / name}-",
        str(found),
        str(CORPUS / name),
    )


def _keep(name: str) -> None:
    """Copy what reaches code that the corpus does not, the smallest of each kind."""
    with tempfile.TemporaryDirectory() as merged:
        for path in (CORPUS / name).iterdir():
            shutil.copy(path, merged)
        if _run(name, "-merge=1", merged, str(_WORK / name)):
            shutil.copytree(merged, CORPUS / name, dirs_exist_ok=True)


def _run(name: str, *options: str) -> bool:
    argv = [sys.executable, "-m", "tests.fuzz.engine", name, *options]
    return subprocess.run(argv, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
