"""The oracles by name; each has a corpus of that name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz import chunks, cookies, exchanges, requests, responses, targets

if TYPE_CHECKING:
    from collections.abc import Callable

ORACLES: dict[str, Callable[[bytes], None]] = {
    "chunks": chunks.check,
    "cookies": cookies.check,
    "exchanges": exchanges.check,
    "requests": requests.check,
    "responses": responses.check,
    "targets": targets.check,
}
CORPUS = Path(__file__).parent / "corpus"
