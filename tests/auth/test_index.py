"""Names by an id that they share."""

from __future__ import annotations

from sidecar.auth.index import Index


def test_an_id_has_the_names_that_were_added_and_not_taken_away() -> None:
    index = Index()
    for name in (b"a", b"b", b"b", ("c", "d")):
        index.add("id", name)
    assert set(index.names("id")) == {b"a", b"b", ("c", "d")}
    index.discard("id", b"b")
    index.discard("id", b"never")
    assert set(index.names("id")) == {b"a", ("c", "d")}
    index.discard("id", b"a")
    index.discard("id", ("c", "d"))
    assert set(index.names("id")) == set()
    assert len(index) == 0


def test_one_name_is_kept_as_it_is() -> None:
    index = Index()
    index.add("id", b"a")
    index.add("id", b"a")
    index.discard("id", b"another")
    index.discard("another", b"a")
    assert tuple(index.names("id")) == (b"a",)
    assert len(index) == 1
    index.discard("id", b"a")
    assert len(index) == 0
