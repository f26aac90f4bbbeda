"""Lines of several processes come out whole."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.workers.relay import LINE_BYTES, relay

LINES = st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b" ") + b"\n"))


async def relayed(pieces: list[bytes], *, keeps_torn: bool = False) -> list[bytes]:
    """Return what is passed on of *pieces*, each of which comes by itself."""
    source = asyncio.StreamReader()
    written: list[bytes] = []
    passing = asyncio.create_task(relay(source, written.append, keeps_torn=keeps_torn))
    for piece in pieces:
        source.feed_data(piece)
        await asyncio.sleep(0)
    source.feed_eof()
    await passing
    return written


@given(lines=LINES, cuts=st.lists(st.integers(0, 400), max_size=5))
async def test_lines_come_whole_wherever_they_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(lines)
    ends = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    pieces = [whole[a:b] for a, b in pairwise(ends)]
    written = await relayed(pieces)
    assert b"".join(written) == whole
    assert all(each.endswith(b"\n") for each in written)


@pytest.mark.parametrize(
    ("keeps_torn", "rest"), [(True, [b"to\n"]), (False, [])], ids=["kept", "left-out"]
)
async def test_a_torn_last_line_is_ended_or_left_out(keeps_torn: bool, rest: list[bytes]) -> None:
    assert await relayed([b"whole\nto"], keeps_torn=keeps_torn) == [b"whole\n", *rest]


async def test_a_line_without_end_is_cut_and_not_held() -> None:
    pieces = [b"x" * 65_536] * (LINE_BYTES // 65_536 + 1)
    written = await relayed([*pieces, b"y\n"])
    assert [line[-2:] for line in written] == [b"x\n", b"y\n"]
