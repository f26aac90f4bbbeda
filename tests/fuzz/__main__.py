"""`python -m tests.fuzz`: feeds every oracle for a while, and keeps what is worth it.

What breaks an oracle is written beside the log of its run. Once the fault is mended, it belongs
into the corpus under a name that says what it is.
"""

from __future__ import annotations

import argparse
import re
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
    parser.add_argument(
        "oracles", nargs="*", metavar="ORACLE", help=f"{', '.join(ORACLES)} (default: all)"
    )
    arguments = parser.parse_args()
    names = arguments.oracles or list(ORACLES)
    if unknown := set(names) - set(ORACLES):
        parser.error(f"no such oracle: {', '.join(sorted(unknown))}")
    seconds = max(1, arguments.seconds // len(names))
    broken = [name for name in names if not _feed(name, seconds)]
    if arguments.keep:
        for name in names:
            _keep(name)
    return 1 if broken else 0


def _feed(name: str, seconds: int) -> bool:
    """Feed one oracle and tell how it went; returns whether it held."""
    found = _WORK / name
    found.mkdir(parents=True, exist_ok=True)
    holds = _run(
        name,
        *_OPTIONS,
        f"-max_total_time={seconds}",
        f"-dict={_DICTIONARY}",
        f"-artifact_prefix={_WORK / name}-",
        str(found),
        str(CORPUS / name),
    )
    log = _log(name).read_text(encoding="utf-8", errors="replace")
    fed = re.findall(r"^stat::number_of_executed_units: (\d+)$", log, re.MULTILINE)
    print(f"{name}: {'holds' if holds else 'BROKEN'} after {fed[-1] if fed else 'no'} inputs")
    if not holds:
        told = re.search(r"=== Uncaught Python exception: ===\n.*?(?=\n\n==)", log, re.DOTALL)
        print(told[0] if told is not None else log[-2000:], f"see {_WORK / name}-*", sep="\n")
    return holds


def _keep(name: str) -> None:
    """Copy what reaches code that the corpus does not, the smallest of each kind."""
    with tempfile.TemporaryDirectory() as merged:
        for path in (CORPUS / name).iterdir():
            shutil.copy(path, merged)
        # Code that is reached, and not how often it is: that would keep much of the same.
        if _run(name, "-merge=1", "-use_counters=0", merged, str(_WORK / name)):
            shutil.copytree(merged, CORPUS / name, dirs_exist_ok=True)


def _run(name: str, *options: str) -> bool:
    argv = [sys.executable, "-m", "tests.fuzz.engine", name, *options]
    with _log(name).open("wb") as log:
        return subprocess.run(argv, check=False, stdout=log, stderr=log).returncode == 0


def _log(name: str) -> Path:
    return _WORK / f"{name}.log"


if __name__ == "__main__":
    sys.exit(main())
