"""Every oracle holds for its corpus, and for what is made up from it within bounds.

`make fuzz` goes on from here, for as long as it is told to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.made_up import changed, corpus
from tests.fuzz.oracles import ORACLES

if TYPE_CHECKING:
    from pathlib import Path

FILES = [
    pytest.param(name, path, id=f"{name}-{path.name}") for name in ORACLES for path in corpus(name)
]


@pytest.mark.parametrize(("name", "path"), FILES)
def test_what_has_been_come_upon_holds(name: str, path: Path) -> None:
    ORACLES[name](path.read_bytes())


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=200)
@given(data=st.data())
def test_what_is_made_up_holds(name: str, data: st.DataObject) -> None:
    ORACLES[name](data.draw(changed(name), label=name))
