"""Input made up from the corpus: what is there already, changed in a few places."""

from __future__ import annotations

import ast
from functools import cache
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from tests.fuzz.oracles import CORPUS

if TYPE_CHECKING:
    from pathlib import Path

Edit = tuple[int, int, bytes]
"""Where, how many bytes to take out, and what to put in."""


@cache
def tokens() -> tuple[bytes, ...]:
    """Return the entries of the dictionary that the fuzzer uses, too."""
    lines = (CORPUS / "dictionary.txt").read_text(encoding="ascii").splitlines()
    return tuple(ast.literal_eval("b" + line) for line in lines if line.startswith('"'))


def corpus(name: str) -> list[Path]:
    """Return the files of a corpus, in order."""
    return sorted((CORPUS / name).iterdir())


def changed(name: str) -> st.SearchStrategy[bytes]:
    """Return what draws a piece of a corpus and changes it in up to four places."""
    seeds = [path.read_bytes() for path in corpus(name)]
    some = st.sampled_from(tokens()) | st.sampled_from(seeds) | st.binary(max_size=4)
    edit = st.tuples(st.integers(0, 4000), st.integers(0, 12), some)
    return st.builds(_change, st.sampled_from(seeds), st.lists(edit, max_size=4))


def _change(seed: bytes, edits: list[Edit]) -> bytes:
    for place, taken, put in edits:
        at = place % (len(seed) + 1)
        seed = seed[:at] + put + seed[at + taken :]
    return seed
