"""README and pages say what the code does."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sidecar import __version__, errors
from sidecar.cli import main
from sidecar.doctor.examination import CHECKS, Outcome
from sidecar.doctor.explanation import Explanation
from sidecar.doctor.telling import explanation_as_json, outcome_as_json
from sidecar.errors import (
    Refusal,
    limits_unavailable,
    quota_exhausted,
    rate_limited,
    too_many_at_once,
    too_many_failures,
)
from sidecar.identity import Identity
from sidecar.observe.access_log import Entry, LineLog
from sidecar.proxy.fields import Kind, RequestFields
from sidecar.settings import Section, Settings, parse
from sidecar.settings.sections import Upstream
from tests.settings.configs import SECRET, lines_in

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
}
EACH_PAGE = pytest.mark.parametrize("name", PAGES)

REFUSALS = [
    *(value for value in vars(errors).values() if isinstance(value, Refusal)),
    rate_limited(1),
    limits_unavailable(1),
    quota_exhausted(1),
    too_many_at_once(1),
    too_many_failures(1),
]
STATUSES = {refusal.reason: refusal.status for refusal in REFUSALS}

HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


def section(page: str, heading: str) -> str:
    """Return what stands under *heading*, up to the next one of any level."""
    _, found, rest = PAGES[page].partition(f"\n## {heading}\n")
    assert found, f"{page} has no section {heading}"
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables in *text*, without their headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ruled = [index for index, row in enumerate(cells) if set(row[0]) == {"-"}]
    dropped = {index for rule in ruled for index in (rule - 1, rule)}
    return [row for index, row in enumerate(cells) if index not in dropped]


def prose(page: str) -> str:
    return FENCE.sub("", PAGES[page])


def blocks(page: str, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(PAGES[page]) if language in languages]


# Reasons and errors


def reasons_of_exchanges() -> set[str]:
    """Return the reasons that the data plane ends with and that are no refusal's."""
    found: set[str] = set()
    for path in (ROOT / "sidecar" / "proxy").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"_end", "_break"}
            ):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                found.update(text for text in texts if isinstance(text, str))
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_reason":
                found.add(ast.literal_eval(node.value))
    return found


def test_operators_are_told_of_every_reason_and_its_status() -> None:
    told = {
        cells[0].strip("`"): cells[1] for cells in rows(section("docs/operating.md", "Reasons"))
    }
    own = reasons_of_exchanges()
    assert {"ok", "client_gone"} <= own
    assert set(told) == own | set(STATUSES)
    assert {reason: told[reason] for reason in STATUSES} == {
        reason: str(status) for reason, status in STATUSES.items()
    }


def test_the_readme_tells_of_every_error_and_its_status() -> None:
    told = {
        (cells[0], cells[1].strip("`")) for cells in rows(section("README.md", "How it decides"))
    }
    assert told == {(str(refusal.status), refusal.error) for refusal in REFUSALS}


@pytest.mark.parametrize("name", ["docs/http.md", "docs/security.md", "docs/getting-started.md"])
def test_reasons_are_named_with_their_status(name: str) -> None:
    named = re.findall(r"\b([45]\d\d)(?: \| | )`([a-z]+_[a-z_]+)`", PAGES[name])
    assert named
    assert {
        (status, reason) for status, reason in named if STATUSES.get(reason) != int(status)
    } == (set())


def test_operators_are_told_of_every_field_of_the_access_log() -> None:
    lines: list[bytes] = []
    LineLog(lines.append, as_text=False).write(Entry())
    table = rows(section("docs/operating.md", "Access log"))
    told = [field for cells in table for field in CODE.findall(cells[0])]
    assert told == re.findall(r'"(\w+)":', lines[0].decode())


# Header fields


def test_the_readme_tells_of_every_identity_header() -> None:
    identity = Identity("api_key", organization_id="o", user_id="u", role="r", key_id="k")
    sent = [line.partition(b":")[0].decode() for line in identity.headers.splitlines()]
    table = rows(section("README.md", "What your API receives"))
    assert [cells[0].strip("`") for cells in table][: len(sent)] == sent


def test_fields_that_are_said_to_be_removed_are() -> None:
    fields = RequestFields("x-api-key", lambda line: line)
    table = rows(section("docs/http.md", "Fields of a request"))
    said = [name for cells in table if cells[1] == "removed" for name in CODE.findall(cells[0])]
    assert len(said) > 10
    assert {name: fields.kind(name.encode()) for name in said} == dict.fromkeys(said, Kind.REMOVED)


def test_every_field_that_means_something_has_its_row() -> None:
    fields = RequestFields("x-api-key", lambda line: line)
    table = rows(section("docs/http.md", "Fields of a request"))
    said = {name for cells in table for name in CODE.findall(cells[0])}
    assert set(Kind) - {Kind.OTHER} <= {fields.kind(name.encode()) for name in said}


# HTTP: each line has its section and its test

TEST = re.compile(r"\[([^\]]+)\]\[([a-z0-9-]+)\]")
DEFINED = re.compile(r"^\[([a-z0-9-]+)\]: (\S+)$", re.MULTILINE)
RFC = re.compile(r"\d{4}, \d+(?:\.\d+)*(?:, (?:\d{4}, )?\d+(?:\.\d+)*)*")


def lines_of_http() -> list[list[str]]:
    """Return the rows of all tables that name tests."""
    page = re.split(r"^## ", PAGES["docs/http.md"], flags=re.MULTILINE)
    return [row for part in page if "| test |" in part for row in rows(part)]


@pytest.fixture(scope="module")
def collected() -> dict[str, set[str]]:
    """Return the tests and their cases in each file that the page on HTTP refers to."""
    files = {target.removeprefix("../") for _, target in DEFINED.findall(PAGES["docs/http.md"])}
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-cov", *sorted(files)]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {file: set() for file in files}
    for line in said.splitlines():
        file, _, test = line.partition("::")
        if file in found:
            name, _, case = test.rpartition("::")[2].partition("[")
            found[file].add(name.removeprefix("test_").replace("_", " "))
            # A case may stand among others: `[1-1.0-keep-alive]`.
            parts = case.removesuffix("]").split("-")
            found[file].update(
                "-".join(parts[start:end])
                for start in range(len(parts))
                for end in range(start + 1, len(parts) + 1)
            )
    return found


def test_every_line_on_http_has_its_section_and_a_test_that_is_there(
    collected: dict[str, set[str]],
) -> None:
    files = dict(DEFINED.findall(PAGES["docs/http.md"]))
    lines = lines_of_http()
    assert len(lines) > 100
    for *cells, tests in lines:
        named = TEST.findall(tests)
        assert named, cells
        for name, file in named:
            assert name in collected[files[file].removeprefix("../")], name


def test_every_line_on_http_has_the_section_that_gives_the_right_to_it() -> None:
    page = re.split(r"^## ", PAGES["docs/http.md"], flags=re.MULTILINE)
    sections = [row[-2] for part in page if "| RFC | test |" in part for row in rows(part)]
    assert len(sections) > 90
    assert [each for each in sections if not RFC.fullmatch(each)] == []


def test_every_file_that_the_page_on_http_refers_to_is_used() -> None:
    used = {file for *_, tests in lines_of_http() for _, file in TEST.findall(tests)}
    assert used == {name for name, _ in DEFINED.findall(PAGES["docs/http.md"])}


# Bounds

UNITS = {"": 1, " B": 1, " KiB": 1024, " MiB": 1024**2, " s": 1}
BOUND = re.compile(r"([0-9.]+)( B| KiB| MiB| s|)(?: and one read)?")


@pytest.mark.parametrize(
    ("bound", "place"),
    [
        pytest.param(cells[1], cells[2].strip("`"), id=cells[2].strip("`"))
        for cells in rows(section("docs/architecture.md", "How memory is bounded"))
    ],
)
def test_a_bound_is_what_the_page_says(bound: str, place: str) -> None:
    module, _, name = place.rpartition(".")
    written = BOUND.fullmatch(bound)
    assert written
    assert float(written[1]) * UNITS[written[2]] == getattr(importlib.import_module(module), name)


def test_places_in_the_code_are_there() -> None:
    for page in PAGES.values():
        for place in re.findall(r"`((?:sidecar|bench|deploy|tests)/[\w/.]*)`", page):
            assert (ROOT / place).exists(), place


# Links


@EACH_PAGE
def test_links_lead_somewhere(name: str) -> None:
    here = (ROOT / name).parent
    for link in LINK.findall(prose(name)):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (here / target).resolve() if target else ROOT / name
        assert path.exists(), link
        if anchor:
            headings = HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
            assert anchor in {slug(heading) for heading in headings}, link


def slug(heading: str) -> str:
    """Return the anchor that a heading gets where the pages are shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_index_lists_every_page() -> None:
    listed = set(LINK.findall(PAGES["docs/README.md"]))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= listed


# Commands


def commands(page: str) -> list[str]:
    """Return every command line that is shown: behind a prompt, or in a sentence."""
    shown = [
        line.removeprefix("$ ")
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    return shown + CODE.findall(prose(page))


NAMED = re.compile(r"(?:^|(?<=/bin/))sidecar(?: .*)?$")


@EACH_PAGE
def test_commands_exist_with_their_options(name: str) -> None:
    for line in commands(name):
        match = NAMED.search(line)
        if match is None:
            continue
        words = shlex.split(match[0], comments=True)[1:]
        if not words or words == ["--version"]:
            continue
        assert words[0] in main.commands, line
        known = {option for each in main.commands[words[0]].params for option in each.opts}
        assert {word for word in words[1:] if word.startswith("-") and word != "-"} <= known, line


def test_commands_are_shown_at_all() -> None:
    shown = {
        match[0].split()[1]
        for name in PAGES
        for line in commands(name)
        if (match := NAMED.search(line)) and " " in match[0]
    }
    assert set(main.commands) <= shown


@EACH_PAGE
def test_targets_of_make_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    for line in commands(name):
        words = shlex.split(line, comments=True) if line.startswith("make") else []
        assert {word for word in words[1:] if "=" not in word} <= targets, line


def test_the_version_that_is_shown_is_this_one() -> None:
    for name in PAGES:
        for block in blocks(name, "console"):
            assert set(re.findall(r"^sidecar (\d\S+)$", block, re.MULTILINE)) <= {__version__}
    assert f"\n## [{__version__}]" in PAGES["CHANGELOG.md"]


TROUBLESHOOTING = "docs/troubleshooting.md"


def test_the_page_on_troubleshooting_lists_every_check() -> None:
    listed = [cells[0].strip("`") for cells in rows(section(TROUBLESHOOTING, "What is wrong"))]
    assert [check.name for check in CHECKS] == listed[: len(CHECKS)]


def test_the_page_on_troubleshooting_tells_of_what_is_printed_as_json() -> None:
    def fields(heading: str) -> list[str]:
        listed = [cells[0] for cells in rows(section(TROUBLESHOOTING, heading))]
        return [cell.strip("`") for cell in listed]

    outcome = json.loads(outcome_as_json("", Outcome([])))
    assert fields("What is wrong")[len(CHECKS) :] == list(outcome)
    explanation = json.loads(explanation_as_json(Explanation([], "ok")))
    assert set(fields("Why a request is answered so")) == set(explanation)
    for name in explanation["forwarded"]:
        assert f"`{name}`" in PAGES[TROUBLESHOOTING]


# Configuration

BASE: dict[str, Any] = {
    "session": {"secrets": [SECRET]},
    "upstreams": {"api": {"urls": ["http://127.0.0.1:9001"]}},
    "routes": [{"path": "/", "upstream": "api"}],
}


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{name}-{number}")
        for name in PAGES
        for number, block in enumerate(blocks(name, "toml"))
    ],
)
def test_configurations_are_valid(block: str, tmp_path: Path) -> None:
    if "[[routes]]" in block:
        for file in re.findall(r'"file:/run/secrets/([\w-]+)"', block):
            (tmp_path / file).write_text(SECRET)
        text = block.replace("file:/run/secrets", f"file:{tmp_path}")
        assert parse(text, environ={"BETTER_AUTH_SECRET": SECRET}).routes
    else:
        Settings.model_validate({**BASE, **tomllib.loads(block)})  # raises where it is not


SETTING = re.compile(
    r"(?:listen|admin|store|api_key|session|identity|limits|log|upstreams\.\w+)(?:\.[a-z_]+)+"
)


@EACH_PAGE
def test_settings_that_are_named_exist(name: str) -> None:
    for code in set(CODE.findall(prose(name))) - {check.name for check in CHECKS}:
        match = SETTING.fullmatch(code.partition(" = ")[0])
        if match is not None:
            assert is_setting(match[0].split(".")), code


def is_setting(path: list[str]) -> bool:
    table: type[Section] = Settings
    if path[0] == "upstreams":
        table, path = Upstream, path[2:]
    for name in path[:-1]:
        inner = table.model_fields[name].annotation if name in table.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, Section)):
            return False
        table = inner
    return path[-1] in table.model_fields


MISTAKES = "Mistakes, and what they look like"


@pytest.mark.parametrize(
    ("change", "environ"),
    [
        pytest.param(("", ""), {}, id="secret-not-set"),
        pytest.param(('["env:BETTER_AUTH_SECRET"]', "[]"), {}, id="no-secret"),
        pytest.param(("sqlite:///", "postgresql://"), {"BETTER_AUTH_SECRET": SECRET}, id="store"),
        pytest.param((":9001", ":9001/"), {"BETTER_AUTH_SECRET": SECRET}, id="path"),
        pytest.param(
            ('["http://127.0.0.1:9001"]', '["https://a"]\ntls.ca_file = "ca.pem"'),
            {"BETTER_AUTH_SECRET": SECRET},
            id="ca-file",
        ),
        pytest.param(("upstream =", "upstrem ="), {"BETTER_AUTH_SECRET": SECRET}, id="misspelt"),
    ],
)
def test_mistakes_are_told_as_the_page_says(
    change: tuple[str, str], environ: dict[str, str]
) -> None:
    (small,) = blocks("docs/getting-started.md", "toml")
    first = lines_in(small.replace(*change), environ)[0]
    told = [cells[0].strip("`") for cells in rows(section("docs/getting-started.md", MISTAKES))]
    assert any(first.startswith(message) for message in told), first


# The text itself


def test_success_comes_early_in_the_readme() -> None:
    lines = PAGES["README.md"].splitlines()
    called = next(number for number, line in enumerate(lines, 1) if line.startswith("$ curl "))
    assert any(line.startswith("$ make demo") for line in lines[:called])
    assert lines[called].startswith('{"message":'), "its answer follows"
    assert called + 1 < 40


PLACES = {"dev", "etc", "opt", "run", "srv", "var"}
"""Where operators keep things; everything else is somebody's own machine."""
SERVED = {"admin", "api", "healthz", "metrics", "path", "readyz", "status", "v1", "x", "y"}
"""First segments of paths that are requested."""
ABSOLUTE = re.compile(r"(?<![\w/.:*}~\])-])/([A-Za-z][\w.-]*)")


@EACH_PAGE
def test_no_path_is_of_the_writers_own_machine(name: str) -> None:
    paths = set(ABSOLUTE.findall(LINK.sub("", PAGES[name])))
    assert paths <= PLACES | SERVED
