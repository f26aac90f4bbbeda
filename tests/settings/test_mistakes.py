"""What is said about a value that cannot be used."""

from __future__ import annotations

import pytest

from sidecar.settings import SettingsError
from tests.settings.configs import config, error_in, lines_in, problem_in


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """
        [log]
        format = "xml"
        colour = true

        [listen]
        port = 70000
        timeouts = { idle = "0s", hedaers = "1s" }

        [upstreams.chat]
        connect = "-1"
        url = ["http://127.0.0.1:9001"]
        urls = ["http://127.0.0.1:9001/"]

        [[routes]]
        path = "/v1/chat/"
        upstream = "chat"
        auth = ["api_key", "sesion"]

        [[routes]]
        path = "/api/export"
        upstream = "exports"
        auth = ["session"]
        body = 10
    """
    assert str(error_in(text)).splitlines() == [
        "test.toml: 13 problems",
        '  log.format: must be "json" or "text" (got "xml")',
        "  log.colour: unknown setting; known here: level, format, access",
        "  listen.port: must be a whole number from 0 to 65535 (got 70000)",
        '  listen.timeouts.idle: must be a duration longer than zero (got "0s")',
        '  listen.timeouts.hedaers: unknown setting; did you mean "headers"?',
        '  upstreams.chat.connect: must be a duration such as "250ms", "10s", "5m" (got "-1")',
        '  upstreams.chat.url: unknown setting; did you mean "urls"?',
        (
            '  upstreams.chat.urls[0]: must be "http://host:port", "https://host:port" or'
            ' "unix:/path" and nothing after it (got "http://127.0.0.1:9001/")'
        ),
        (
            '  routes[0].path: must be a path such as "/v1/chat": without a query, percent escapes,'
            ' ";", "//", segments "." and "..", or "/" at its end (got "/v1/chat/")'
        ),
        '  routes[0].auth[1]: must be "api_key" or "session" (got "sesion")',
        '  routes[1].upstream (/api/export): no such upstream; there is "chat"',
        '  routes[1].body (/api/export): must be a size such as "512B", "64KiB", "10MiB" (got 10)',
        "  session.secrets: needs Better Auth's secret: routes[1] admits sessions",
    ]


def test_the_documented_example_reads_as_documented() -> None:
    text = config(upstream='connect = "-1"\nurl = ["http://127.0.0.1:9001"]')
    assert str(error_in(text)) == (
        "test.toml: 2 problems\n"
        '  upstreams.chat.connect: must be a duration such as "250ms", "10s", "5m" (got "-1")\n'
        '  upstreams.chat.url: unknown setting; did you mean "urls"?'
    )


def test_one_mistake_is_one_problem() -> None:
    assert str(error_in(config("listen.port = -1"))).splitlines()[0] == "test.toml: 1 problem"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(
            config("lisen.port = 1"), 'lisen: unknown setting; did you mean "listen"?', id="section"
        ),
        pytest.param(
            config('store.cache.frehs = "1s"'),
            'store.cache.frehs: unknown setting; did you mean "fresh"?',
            id="inner-section",
        ),
        pytest.param(
            config("listen.tls = { keyfile = 1 }"),
            'listen.tls.keyfile: unknown setting; did you mean "key_file"?',
            id="table-that-may-be-left-out",
        ),
        pytest.param(
            config(route='organisation = "optional"'),
            'routes[0].organisation (/v1/chat): unknown setting; did you mean "organization"?',
            id="route",
        ),
        pytest.param(
            config('"a.b\\n" = 1\nidentity."" = 2'),
            r'"a.b\n": unknown setting; known here: listen, admin, store, api_key, session,'
            " identity, limits, log, upstreams, routes",
            id="odd-name",
        ),
        pytest.param(
            config('identity."[key]" = 1'),
            'identity."[key]": unknown setting; known here: internal_token',
            id="name-of-pydantics",
        ),
    ],
)
def test_an_unknown_setting_gets_the_nearest_known_name_or_all(text: str, line: str) -> None:
    assert lines_in(text)[0] == line


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("listen = 1", "listen: must be a table (got a number)"),
        ("listen = []", "listen: must be a table (got a list)"),
        ('listen = "x"', "listen: must be a table (got text)"),
        ("listen.timeouts = true", "listen.timeouts: must be a table (got true)"),
        ("listen.tls = true", "listen.tls: must be a table (got true)"),
        (
            'listen.tls = { cert_file = "c" }',
            "listen.tls.key_file: required: the certificate's private key",
        ),
        (
            'listen.tls = { cert_file = "c", key_file = "" }',
            (
                'listen.tls.key_file: must be the path of a file, such as "/etc/sidecar/ca.pem"'
                ' (got "")'
            ),
        ),
        (
            'listen.tls = { cert_file = "c", key_file = "k", key_password = "" }',
            "listen.tls.key_password: must be a password that is not empty",
        ),
        (
            "listen.max_requests = 0",
            "listen.max_requests: must be a whole number from 1 to 1000000 (got 0)",
        ),
        ("session.secrets = 2", "session.secrets: must be a list (got a number)"),
        ("session.secrets = {}", "session.secrets: must be a list (got a table)"),
        (
            "session.secrets = [1979-05-27]",
            (
                "session.secrets[0]: must be a secret of at least 16 characters (Better Auth asks"
                " for 32)"
            ),
        ),
        ("log.access = 1", "log.access: must be true or false (got 1)"),
        ("log.level = true", 'log.level: must be "debug", "info", "warning" or "error" (got true)'),
        (
            "admin.port = true",
            "admin.port: must be a whole number from 0 to 65535 (got true)",
        ),
        (
            "admin.port = 80.0",
            "admin.port: must be a whole number from 0 to 65535 (got 80.0)",
        ),
        (
            f"admin.port = 0x{'f' * 5000}",
            "admin.port: must be a whole number from 0 to 65535 (got a number)",
        ),
        (
            "admin.port = 1979-05-27",
            "admin.port: must be a whole number from 0 to 65535 (got a date or time)",
        ),
        (
            "admin.port = [1]",
            "admin.port: must be a whole number from 0 to 65535 (got a list)",
        ),
        (
            'admin.host = "\\u001b[31m\\u202e"',
            r'admin.host: must be an IP address or a host name (got "\u001b[31m\u202e")',
        ),
        (
            f'admin.host = "{"/" * 500}"',
            f'admin.host: must be an IP address or a host name (got "{"/" * 60}…")',
        ),
        (
            'upstreams."a b".urls = ["http://a"]',
            (
                'upstreams."a b": must be a name of at most 64 letters, digits, "-" and "_"'
                ' (got "a b")'
            ),
        ),
        ("upstreams.a.urls = []", "upstreams.a.urls: needs at least 1"),
        (
            f"upstreams.a.urls = {[f'http://a:{port}' for port in range(1, 66)]}",
            "upstreams.a.urls: takes at most 64 (got 65)",
        ),
        ("upstreams.a.idle = '1s'", "upstreams.a.urls: required: where it listens: one or more"),
        ("upstreams.a = []", "upstreams.a: must be a table (got a list)"),
    ],
    ids=lambda text: text[:40],
)
def test_a_value_of_the_wrong_kind_is_told_as_what_it_is(head: str, line: str) -> None:
    assert str(problem_in(config(head))) == line


@pytest.mark.parametrize(
    ("route", "line"),
    [
        ("methods = []", "routes[0].methods (/v1/chat): needs at least 1"),
        ("permissions = 3", "routes[0].permissions (/v1/chat): must be a table (got a number)"),
        (
            "permissions = { chat = [] }",
            "routes[0].permissions.chat (/v1/chat): needs at least 1",
        ),
        (
            'permissions = { "" = ["read"] }',
            (
                'routes[0].permissions."" (/v1/chat): must be text that is not empty, without'
                ' control characters or outer spaces (got "")'
            ),
        ),
        (
            'origins = ["*", "https://app.example.com"]',
            'routes[0].origins (/v1/chat): must be origins, or "*" alone (got a list)',
        ),
    ],
    ids=lambda text: text[:30],
)
def test_a_routes_mistake_names_its_path(route: str, line: str) -> None:
    assert str(problem_in(config(route=route))) == line


def test_a_configuration_needs_an_upstream_and_a_route() -> None:
    needs = [
        "upstreams: required: a table for each service: [upstreams.NAME]",
        "routes: required: a [[routes]] table for each path",
    ]
    assert lines_in("") == needs
    assert lines_in("upstreams = {}\nroutes = []") == [
        "upstreams: needs at least 1",
        "routes: needs at least 1",
    ]
    assert lines_in("[upstreams.chat]\nurls = ['http://chat']\n[[routes]]\nauth = []") == [
        "routes[0].path: required: serves this path and all below it",
        "routes[0].upstream: required: the name of the upstream that serves it",
    ]


def test_a_problem_without_a_place_is_one_line() -> None:
    error = SettingsError("test.toml", error_in("a = 1").problems[:0])
    assert str(error) == "test.toml: 0 problems"
    assert str(error_in("a = " + "[" * 5000)) == "test.toml: is nested too deeply"
