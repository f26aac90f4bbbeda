"""A container's share of the processor counts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sidecar.workers.cores import usable

if TYPE_CHECKING:
    from pathlib import Path

ALL = 8


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(ALL)), raising=False)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        pytest.param("max 100000\n", ALL, id="none"),
        pytest.param("50000 100000\n", 1, id="half-a-core"),
        pytest.param("200000 100000\n", 2, id="two-cores"),
        pytest.param("250000 100000\n", 3, id="two-and-a-half"),
        pytest.param("6400000 100000\n", ALL, id="more-than-there-are"),
        pytest.param("", ALL, id="empty"),
        pytest.param("1 0", ALL, id="no-period"),
    ],
)
def test_the_quota_bounds_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert usable(tmp_path / "cpu.max") == cores


def test_without_a_quota_all_cores_count(tmp_path: Path) -> None:
    assert usable(tmp_path / "absent") == ALL


def test_where_affinity_is_not_told_the_machine_s_cores_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable(tmp_path / "absent") == 3
