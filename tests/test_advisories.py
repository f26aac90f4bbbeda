"""That each of the advisories that were learned from has its tests, which name it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

# What went wrong in proxies of this kind, by public advisory or report, and the tests that show
# that it does not here.
ADVISORIES = (
    (
        (
            "CVE-2025-64484",
            "GHSA-vjrc-mh2v-45x6",
        ),
        ("test_case_variants_of_an_underscore_alias",),
    ),
    (
        (
            "CVE-2026-39858",
            "GHSA-5m6w-wvh7-57vm",
        ),
        ("test_every_mix_of_dashes_underscores_and_cases",),
    ),
    (
        ("GHSA-x677-9fxg-v5c5",),
        ("test_every_separator_in_every_place",),
    ),
    (
        ("GHSA-7r4p-vjf4-gxv4",),
        ("test_a_header_that_we_do_not_set_this_time",),
    ),
    (
        ("GHSA-f59h-q822-g45g",),
        ("test_a_variant_of_a_header_that_we_do_not_set",),
    ),
    (
        (
            "apache/apisix#13183",
            "apache/apisix#13491",
            "apache/apisix#13590",
            "apache/apisix#13696",
        ),
        (
            "test_health_is_no_branch_of_its_own",
            "test_no_branch_leaves_the_clients_headers_in_place",
        ),
    ),
    (
        (
            "CVE-2024-45410",
            "GHSA-62c8-mh53-4cqv",
        ),
        ("test_connection_names_identity",),
    ),
    (
        (
            "CVE-2022-31813",
            "CVE-2021-32813",
            "CVE-2025-48865",
        ),
        (
            "test_connection_names_credentials",
            "test_nothing_gets_better_for_a_name_in_connection",
        ),
    ),
    (
        ("CVE-2021-32777",),
        ("test_several_values_are_one_decision",),
    ),
    (
        (
            "CVE-2026-35051",
            "CVE-2026-54764",
            "GHSA-3q9r-p662-5j8m",
            "CVE-2024-52003",
        ),
        ("test_an_untrusted_peer_does_not_say_where_it_comes_from",),
    ),
    (
        ("CVE-2023-27487",),
        (
            "test_no_header_chooses_the_method_that_is_judged",
            "test_no_header_chooses_the_path_that_is_judged",
        ),
    ),
    (
        (
            "GHSA-pxq7-h93f-9jrg",
            "CVE-2021-32779",
        ),
        (
            "test_a_fragment_is_refused",
            "test_an_encoded_number_sign_is_part_of_the_path",
        ),
    ),
    (
        ("GHSA-p224-6x5r-fjpm",),
        (
            "test_a_dot_segment_is_refused",
            "test_a_path_that_only_looks_public_is_not",
            "test_dots_that_are_no_segment_pass",
        ),
    ),
    (
        (
            "CVE-2019-9901",
            "CVE-2021-29492",
        ),
        ("test_what_decodes_in_two_ways_is_refused",),
    ),
    (
        ("CVE-2021-43557",),
        (
            "test_an_absolute_target_is_judged_by_its_path",
            "test_forms_that_name_no_resource_are_refused",
            "test_odd_forms_of_a_target_are_refused",
        ),
    ),
    (
        ("CVE-2021-32637",),
        (
            "test_a_malformed_target_is_refused",
            "test_a_target_without_end_is_refused",
        ),
    ),
    (
        (
            "CVE-2026-48794",
            "CVE-2026-27587",
            "CVE-2026-27588",
        ),
        (
            "test_a_host_that_is_none_is_refused",
            "test_no_spelling_of_the_host_changes_the_decision",
            "test_paths_are_compared_as_the_upstream_does_by_byte",
        ),
    ),
    (
        (
            "aio-libs/aiohttp#2188",
            "aio-libs/aiohttp#4307",
            "aio-libs/aiohttp#7183",
            "aio-libs/yarl#498",
        ),
        ("test_targets_are_forwarded_byte_for_byte",),
    ),
    (
        ("vllm-project/vllm#58144",),
        ("test_an_undeclared_path_is_not_open",),
    ),
    (
        ("CVE-2026-69243", "GHSA-mfx4-hv73-q22v"),
        ("test_without_a_101_nothing_behind_the_request_is_read",),
    ),
    (
        (
            "CVE-2026-88008",
            "GHSA-w4v4-9rw7-5326",
            "golang/go#80416",
        ),
        ("test_an_upgrade_to_anything_else_is_an_ordinary_request",),
    ),
    (
        (
            "CVE-2023-47641",
            "CVE-2023-47627",
        ),
        (
            "test_an_ambiguous_head_is_refused_and_closed",
            "test_the_parsers_are_compiled",
        ),
    ),
    (
        ("CVE-2024-52304",),
        ("test_a_line_of_the_chunked_framing_ends_in_crlf_and_says_one_thing",),
    ),
    (
        ("CVE-2026-34525",),
        (
            "test_a_request_has_one_host",
            "test_the_target_names_the_same_host",
        ),
    ),
    (
        ("CVE-2026-22815",),
        (
            "test_a_trailer_is_no_header",
            "test_framing_without_end_is_enough_at_some_point",
            "test_trailers_are_bounded",
        ),
    ),
    (
        (
            "CVE-2026-69244",
            "CVE-2026-34520",
            "GHSA-mwh4-6h8g-pg8w",
        ),
        (
            "test_a_hostile_response_becomes_a_502",
            "test_a_response_that_breaks_off_does_not_look_whole",
            "test_two_clients_of_one_upstream_never_get_each_others_answers",
            "test_what_follows_a_response_reaches_nobody",
            "test_what_is_no_head_is_a_502_in_every_situation",
        ),
    ),
    (
        ("GHSA-g3cq-j2xw-wf74",),
        (
            "test_a_bomb_stays_packed",
            "test_a_compressed_body_is_nobodys_to_unpack",
        ),
    ),
    (
        ("GHSA-966j-vmvw-g2g9",),
        ("test_a_redirect_is_the_clients_to_follow",),
    ),
    (
        (
            "better-auth/better-auth#10203",
            "better-auth/better-auth#9990",
            "oauth2-proxy/oauth2-proxy#3478",
        ),
        ("test_another_address_each_time_is_still_one_caller",),
    ),
    (
        ("GHSA-vhr5-ggp3-qq85",),
        ("test_the_scheme_is_not_the_clients_to_choose",),
    ),
    (
        (
            "BerriAI/litellm#18731",
            "BerriAI/litellm#39757",
            "BerriAI/litellm#34710",
            "BerriAI/litellm#31620",
            "BerriAI/litellm#7603",
            "apache/apisix#13205",
        ),
        ("test_no_secret_is_put_out",),
    ),
    (
        ("GHSA-57q6-fvp4-pqmm",),
        (
            "test_a_key_is_restricted_whatever_carries_it",
            "test_a_session_is_restricted_whatever_carries_it",
            "test_nothing_else_carries_a_credential",
        ),
    ),
    (
        ("CVE-2024-45806",),
        (
            "test_a_private_address_is_not_trusted_for_being_private",
            "test_nor_is_this_machine",
        ),
    ),
    (
        (
            "ggml-org/llama.cpp#24825",
            "xorbitsai/inference#4734",
        ),
        (
            "test_a_plain_comparison_would_be_found",
            "test_secrets_are_compared_in_constant_time",
        ),
    ),
    (
        (
            "CVE-2024-39315",
            "CVE-2022-24797",
        ),
        ("test_the_public_port_tells_nothing",),
    ),
    (
        ("better-auth/better-auth#9806",),
        ("test_a_planted_cookie_does_not_shadow_the_guarded_one",),
    ),
    (
        ("aio-libs/aiohttp#11632",),
        ("test_a_broken_cookie_hides_nothing_that_follows",),
    ),
)

NAMED = re.compile(r"CVE-\d{4}-\d+|GHSA(?:-[a-z0-9]{4}){3}")


def docstrings() -> dict[str, str]:
    """Return what each test says of itself."""
    found: dict[str, str] = {}
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[node.name] = found.get(node.name, "") + (ast.get_docstring(node) or "")
    return found


DOCSTRINGS = docstrings()


@pytest.mark.parametrize(
    ("advisories", "tests"), [pytest.param(*row, id=row[0][0]) for row in ADVISORIES]
)
def test_an_advisory_has_tests_that_name_it(
    advisories: tuple[str, ...], tests: tuple[str, ...]
) -> None:
    said = [DOCSTRINGS[name] for name in tests]
    for advisory in advisories:
        # Of several reports to one project, only the first names it in full.
        number = "#" + advisory.partition("#")[2] if "#" in advisory else advisory
        assert any(number in text for text in said), advisory
    assert all(NAMED.search(text) or "#" in text for text in said), "a test without its advisory"


def test_an_advisory_that_a_test_names_is_in_the_table() -> None:
    listed = {advisory for advisories, _ in ADVISORIES for advisory in advisories}
    named = {each for text in DOCSTRINGS.values() for each in NAMED.findall(text)}
    assert named <= listed
