from __future__ import annotations

from sidecar.demo.conversations import (
    MESSAGES_KEPT,
    ORGANIZATIONS_KEPT,
    SESSIONS_KEPT,
    Conversations,
)


class StoppedClock:
    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 1_700_000_000.25


def conversations() -> Conversations:
    return Conversations(StoppedClock())


def test_times_are_iso_8601_with_milliseconds_in_utc() -> None:
    assert conversations().begin("acme", "t", None).created_at == "2023-11-14T22:13:20.250Z"


def test_sessions_are_listed_newest_first_and_to_their_organization_alone() -> None:
    kept = conversations()
    first, second = kept.begin("acme", "first", None), kept.begin("acme", "second", None)
    assert kept.newest_first("acme") == [second, first]
    assert kept.newest_first("globex") == []
    assert kept.find("acme", first.id) is first
    assert kept.find("globex", first.id) is None


def test_the_oldest_session_gives_way_to_one_too_many() -> None:
    kept = conversations()
    sessions = [kept.begin("acme", "t", None) for _ in range(SESSIONS_KEPT + 1)]
    assert kept.find("acme", sessions[0].id) is None
    assert kept.newest_first("acme") == sessions[:0:-1]


def test_the_organization_that_was_longest_quiet_gives_way_to_one_too_many() -> None:
    kept = conversations()
    for number in range(ORGANIZATIONS_KEPT):
        kept.begin(f"org{number}", "t", None)
    kept.begin("org0", "again", None)
    kept.begin("one too many", "t", None)
    assert len(kept.newest_first("org0")) == 2
    assert kept.newest_first("org1") == []


def test_a_session_forgets_its_oldest_messages_and_goes_on_counting() -> None:
    session = conversations().begin("acme", "t", None)
    for number in range(1, MESSAGES_KEPT + 3):
        session.add("user", f"message {number}", "now")
    page = session.page(0, MESSAGES_KEPT)
    assert [page.messages[0].id, page.messages[-1].id] == [3, MESSAGES_KEPT + 2]
    assert session.message_count == MESSAGES_KEPT + 2
    assert page.next_cursor is None
