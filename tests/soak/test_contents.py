from __future__ import annotations

import pytest

from tests.soak.contents import Expected, content


@pytest.mark.parametrize("step", [1, 4095, 4096, 4097, 65_536, 200_000])
def test_a_body_is_known_however_it_is_cut(step: int) -> None:
    body = content("a", 200_000)
    expected = Expected("a")
    assert all(expected.matches(body[start : start + step]) for start in range(0, len(body), step))
    assert expected.taken == len(body)


@pytest.mark.parametrize("at", [0, 4096, 199_999])
def test_one_other_byte_is_noticed(at: int) -> None:
    body = bytearray(content("a", 200_000))
    body[at] ^= 1
    assert not Expected("a").matches(bytes(body))


def test_somebody_elses_body_is_noticed() -> None:
    assert not Expected("a").matches(content("b", 10))


def test_a_piece_that_is_missing_is_noticed() -> None:
    body = content("a", 10_000)
    expected = Expected("a")
    assert expected.matches(body[:100])
    assert not expected.matches(body[200:300])
