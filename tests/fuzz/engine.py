"""`python -m tests.fuzz.engine ORACLE [libFuzzer's options] [folders]`: one oracle, fed by atheris.

The code that reads what arrives is instrumented as it is imported, so that input which takes it
somewhere new is kept and changed further.
"""

from __future__ import annotations

import sys

import atheris

_READERS = ["sidecar.auth.cookies", "sidecar.proxy", "sidecar.routes"]


def main() -> None:
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=_READERS):
        from tests.fuzz.oracles import ORACLES  # noqa: PLC0415 - instrumented from here on
    # libFuzzer starts itself anew by its first argument, through a shell.
    itself = f"{sys.executable} -m tests.fuzz.engine {name}"
    atheris.Setup([itself, *options], ORACLES[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
