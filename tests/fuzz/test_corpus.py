"""Every oracle holds for its corpus, and for what is made up within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fuzz.oracles import CORPUS, ORACLES

if TYPE_CHECKING:
    from pathlib import Path

FILES = [
    pytest.param(name, path, id=f"{name}-{path.name}")
    for name in ORACLES
    for path in sorted((CORPUS / name).iterdir())
]


@pytest.mark.parametrize(("name", "path"), FILES)
def test_what_has_been_come_upon_holds(name: str, path: Path) -> None:
    ORACLES[name](path.read_bytes())
