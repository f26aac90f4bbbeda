"""Text that was read and found good, in files.

With RENEW_GOLDEN=1 in the environment, what is given is written down instead: read it then.
"""

from __future__ import annotations

import os
from pathlib import Path

_DIRECTORY = Path(__file__).with_name("golden")


def assert_golden(name: str, text: str) -> None:
    """Assert that *text* is what the file *name* holds."""
    path = _DIRECTORY / name
    if os.environ.get("RENEW_GOLDEN"):
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8")
