"""That each of the advisories that we learned from has a test of its own."""

from __future__ import annotations

import ast
from pathlib import Path

# What went wrong in proxies of this kind, by public advisory or report.
THREATS = {
    1: ["CVE-2025-64484", "GHSA-vjrc-mh2v-45x6"],
    2: ["CVE-2026-39858", "GHSA-5m6w-wvh7-57vm"],
    3: ["GHSA-x677-9fxg-v5c5"],
    4: ["GHSA-7r4p-vjf4-gxv4"],
    5: ["GHSA-f59h-q822-g45g"],
    6: ["apache/apisix#13183", "#13491", "#13590", "#13696"],
    7: ["CVE-2024-45410", "GHSA-62c8-mh53-4cqv"],
    8: ["CVE-2022-31813", "CVE-2021-32813", "CVE-2025-48865"],
    9: ["CVE-2021-32777"],
    10: ["CVE-2026-35051", "CVE-2026-54764", "GHSA-3q9r-p662-5j8m", "CVE-2024-52003"],
    11: ["CVE-2023-27487"],
    14: ["GHSA-pxq7-h93f-9jrg", "CVE-2021-32779"],
    15: ["GHSA-p224-6x5r-fjpm"],
    16: ["CVE-2019-9901", "CVE-2021-29492"],
    17: ["CVE-2021-43557"],
    18: ["CVE-2021-32637"],
    19: ["CVE-2026-48794", "CVE-2026-27587", "CVE-2026-27588"],
    20: ["aio-libs/aiohttp#2188", "#4307", "#7183", "aio-libs/yarl#498"],
    21: ["vllm-project/vllm#58144"],
    25: ["CVE-2023-47641", "CVE-2023-47627"],
    26: ["CVE-2024-52304"],
    27: ["CVE-2026-34525"],
    28: ["CVE-2026-22815"],
    29: ["CVE-2026-69244", "CVE-2026-34520", "GHSA-mwh4-6h8g-pg8w"],
    30: ["GHSA-g3cq-j2xw-wf74"],
    31: ["GHSA-966j-vmvw-g2g9"],
    32: ["better-auth/better-auth#10203", "#9990", "oauth2-proxy/oauth2-proxy#3478"],
    34: ["GHSA-vhr5-ggp3-qq85"],
    39: [
        *("BerriAI/litellm#18731", "#39757", "#34710", "#31620", "#7603"),
        "apache/apisix#13205",
    ],
    40: ["GHSA-57q6-fvp4-pqmm"],
    43: ["CVE-2024-45806"],
    45: ["ggml-org/llama.cpp#24825", "xorbitsai/inference#4734"],
    46: ["better-auth/better-auth#9806"],
    47: ["aio-libs/aiohttp#11632"],
}


def docstrings_by_threat() -> dict[int, str]:
    """Return what the tests named for each number say of it."""
    found: dict[int, str] = {}
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                prefix, _, rest = node.name.partition("test_threat_")
                if not prefix and rest:
                    number = int(rest[:2])
                    found[number] = found.get(number, "") + (ast.get_docstring(node) or "")
    return found


def test_every_threat_has_a_test_that_names_its_source() -> None:
    found = docstrings_by_threat()
    assert set(found) == set(THREATS)
    missing = {
        number: [source for source in sources if source not in found[number]]
        for number, sources in THREATS.items()
    }
    assert {number: sources for number, sources in missing.items() if sources} == {}
