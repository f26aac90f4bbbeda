"""What is explained is what the proxy does, for every credential that Better Auth made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.doctor.explanation import explain
from sidecar.doctor.telling import explanation_as_json, explanation_as_text
from tests import betterauth
from tests.clock import ManualClock
from tests.doctor.golden import assert_golden
from tests.doctor.subjects import settings_for
from tests.sockets.canaries import Canaries
from tests.sockets.test_betterauth_cases import (
    NOW,
    answers,
    asking,
    database_of,
    session_names,
    settings_of,
)
from tests.transplant import TRANSPLANTS, transplant

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.doctor.explanation import Explanation
    from sidecar.settings import PostgresURL
    from tests.betterauth import Case
    from tests.postgres import PostgresServer


async def explained(database: Path | PostgresURL, case: Case, extra: str = "") -> Explanation:
    settings = settings_for(database, case.secret, extra)
    return await explain(settings, asking(case, b"/v1/chat"), "127.0.0.1", ManualClock(NOW))


def assert_as_expected(explanation: Explanation, case: Case, folder: str) -> None:
    expected = answers(folder, case)[0]
    error = None if explanation.body is None else explanation.body["error"]
    assert (explanation.status or 200, error) == (expected.status, expected.error)
    passed = [step.passed for step in explanation.steps]
    if expected.status == 200:
        assert all(passed)
        fields = dict(line.split(": ", 1) for line in explanation.head[1:])
        assert fields["x-organization-id"] == expected.organization_id
        assert fields["x-user-id"] == expected.user_id
        assert fields["x-organization-role"] == expected.role
    else:
        assert passed == [True] * (len(passed) - 1) + [False]


def secrets_in(case: Case) -> list[str]:
    """Return the key, or the cookies' values, that are long enough to be one."""
    raw = case.credential or ""
    cookies = [pair.partition("=")[2] for pair in raw.split(";")]
    return [each for each in ([raw] if case.kind == "api_key" else cookies) if len(each) >= 32]


def assert_silent(explanation: Explanation, case: Case) -> None:
    canaries = Canaries()
    canaries.add("secret", case.secret)
    for number, secret in enumerate(secrets_in(case)):
        canaries.add(f"credential {number}", secret)
    told = explanation_as_text(explanation).encode()
    assert not canaries.found_in(told, explanation_as_json(explanation))


@pytest.mark.parametrize("folder", [*betterauth.FOLDERS, betterauth.DUMP, betterauth.SECONDARY])
async def test_every_case_is_explained_as_it_is_answered(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = database_of(folder, tmp_path, request)
    extra = settings_of(folder, database, request)
    texts: dict[str, str] = {}
    for case in betterauth.load_cases(folder):
        explanation = await explained(database, case, extra)
        assert_as_expected(explanation, case, folder)
        assert_silent(explanation, case)
        texts.setdefault(explanation.reason, f"{case.id}\n\n{explanation_as_text(explanation)}\n")
    if folder in betterauth.DATABASES:
        assert_golden(f"explain-{folder}.txt", "\n\n".join(texts.values()))


@pytest.mark.parametrize(
    ("folder", "layout"), [pytest.param(*pair, id="-".join(pair)) for pair in TRANSPLANTS]
)
async def test_cases_are_explained_in_every_layout_of_postgres(
    folder: str, layout: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    made = transplant(postgres_server, folder, layout, tmp_path)
    for case in made.cases:
        explanation = await explained(made.url, case, session_names(folder))
        assert_as_expected(explanation, case, folder)
