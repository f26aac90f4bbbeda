"""What settings must agree about."""

from __future__ import annotations

import pytest

from tests.settings.configs import SECRET, config, error_in, lines_in, problem_in, read

TWO_ROUTES = """
[upstreams.chat]
urls = ["http://127.0.0.1:9001"]

[[routes]]
path = "/v1/chat"
upstream = "chat"
auth = []

[[routes]]
path = "{path}"
upstream = "{upstream}"
auth = []
"""


def test_a_route_names_an_upstream_that_there_is() -> None:
    read(TWO_ROUTES.format(path="/v1", upstream="chat"))
    problem = problem_in(TWO_ROUTES.format(path="/v1", upstream="export"))
    assert str(problem) == 'routes[1].upstream (/v1): no such upstream; there is "chat"'


def test_an_upstream_with_a_mistake_is_there_all_the_same() -> None:
    assert lines_in(config(upstream="connect = 1")) == [
        'upstreams.chat.connect: must be a duration such as "250ms", "10s", "5m" (got 1)'
    ]


def test_two_routes_with_one_path_are_refused_even_where_one_has_another_mistake() -> None:
    text = TWO_ROUTES.format(path="/v1/chat", upstream="chat")
    assert str(problem_in(text)) == "routes[1].path (/v1/chat): routes[0] has the same path"
    assert lines_in(text + "body = 1")[0] == (
        "routes[1].path (/v1/chat): routes[0] has the same path"
    )


@pytest.mark.parametrize("path", ["/v1", "/v1/chat/rooms", "/V1/chat", "/"])
def test_paths_that_differ_stand_side_by_side(path: str) -> None:
    assert read(TWO_ROUTES.format(path=path, upstream="chat")).routes[1].path == path


@pytest.mark.parametrize("auth", ['["session"]', '["api_key", "session"]'])
@pytest.mark.parametrize("head", ["", "session.secrets = []"])
def test_sessions_need_a_secret(auth: str, head: str) -> None:
    assert str(problem_in(config(head, auth=auth))) == (
        "session.secrets: needs Better Auth's secret: routes[0] admits sessions"
    )
    read(config(f'session.secrets = ["{SECRET}"]', auth=auth))


def test_a_route_that_does_not_say_whom_it_admits_admits_sessions_too() -> None:
    text = config().replace('auth = ["api_key"]', "")
    assert problem_in(text).place == "session.secrets"


@pytest.mark.parametrize("auth", ["[]", '["api_key"]'])
def test_without_sessions_no_secret_is_needed(auth: str) -> None:
    assert read(config(auth=auth)).session.secrets == ()


@pytest.mark.parametrize(
    ("route", "auth", "place"),
    [
        pytest.param('roles = ["owner"]', '["api_key"]', "roles", id="roles-keys-alone"),
        pytest.param('roles = ["owner"]', "[]", "roles", id="roles-public"),
        pytest.param(
            'permissions = { a = ["b"] }', '["session"]', "permissions", id="permissions-sessions"
        ),
        pytest.param('permissions = { a = ["b"] }', "[]", "permissions", id="permissions-public"),
        pytest.param(
            'limit = { requests = 1, window = "1h" }', '["session"]', "limit", id="limit-sessions"
        ),
        pytest.param("cost = 2", "[]", "cost", id="cost-public"),
    ],
)
def test_a_demand_that_no_admitted_credential_meets_is_refused(
    route: str, auth: str, place: str
) -> None:
    """It would look like a protection and be none."""
    text = config(f'session.secrets = ["{SECRET}"]', route=route, auth=auth)
    problem = problem_in(text)
    assert problem.place == f"routes[0].{place}"
    assert problem.message.startswith("binds nobody")
    read(text.replace(f"auth = {auth}", 'auth = ["api_key", "session"]'))


def two_limits(one: str, other: str) -> str:
    second = config(auth='["api_key"]', route=f"limit = {other}").partition("[[routes]]")[2]
    return (
        config(route=f"limit = {one}")
        + "[[routes]]"
        + second.replace('path = "/v1/chat"', 'path = "/v1/export"')
    )


EXPORTS = '{ requests = 10, window = "1h", budget = "exports" }'


@pytest.mark.parametrize(
    "other",
    [
        pytest.param('{ requests = 11, window = "1h", budget = "exports" }', id="requests"),
        pytest.param('{ requests = 10, window = "2h", budget = "exports" }', id="window"),
    ],
)
def test_routes_that_share_a_budget_agree_about_it(other: str) -> None:
    problem = problem_in(two_limits(EXPORTS, other))
    assert str(problem) == (
        'routes[1].limit (/v1/export): routes[0] says otherwise of "exports": requests and window'
        " must be the same wherever a budget is shared"
    )


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(EXPORTS, id="same"),
        pytest.param('{ requests = 10, window = "60m", budget = "exports" }', id="as-long"),
        pytest.param('{ requests = 11, window = "1h", budget = "others" }', id="another"),
        pytest.param('{ requests = 11, window = "1h" }', id="its-own"),
    ],
)
def test_those_that_agree_or_do_not_share_stand_side_by_side(other: str) -> None:
    assert len(read(two_limits(EXPORTS, other)).routes) == 2


def test_a_mistake_in_a_limit_is_the_only_one() -> None:
    other = '{ requests = 11, window = "soon", budget = "exports" }'
    assert problem_in(two_limits(EXPORTS, other)).place == "routes[1].limit.window"


@pytest.mark.parametrize(
    ("head", "route", "limit"),
    [
        pytest.param(
            "",
            'limit = { requests = 9, window = "1h" }',
            "the route's own limit allows in a window (9)",
            id="route",
        ),
        pytest.param(
            'limits.organization = { requests = 9, window = "1h" }',
            "",
            "limits.organization allows in a window (9)",
            id="organization",
        ),
        pytest.param(
            'limits = { source = "config", requests = 9 }',
            "",
            "limits.requests allows in a window (9)",
            id="config",
        ),
        pytest.param(
            'limits = { source = "min", requests = 9 }',
            "",
            "limits.requests allows in a window (9)",
            id="min",
        ),
    ],
)
def test_a_request_does_not_cost_more_than_a_limit(head: str, route: str, limit: str) -> None:
    text = config(head, route=f"{route}\ncost = 10")
    assert str(problem_in(text)) == (
        f"routes[0].cost (/v1/chat): costs more than {limit}: no request would pass"
    )
    assert read(text.replace("cost = 10", "cost = 9")).routes[0].cost == 9


def test_a_row_may_allow_what_the_section_does_not() -> None:
    assert read(config("limits.requests = 9", route="cost = 10")).routes[0].cost == 10


@pytest.mark.parametrize("proxies", ["", "trusted_proxies = []"])
@pytest.mark.parametrize("switch", ["true", '"env:BEHIND_A_PROXY"'])
def test_headers_of_a_proxy_need_proxies(proxies: str, switch: str) -> None:
    text = config(f"[listen]\nproxy_protocol = {switch}\n{proxies}")
    (problem,) = error_in(text, {"BEHIND_A_PROXY": "true"}).problems
    assert str(problem) == (
        "listen.proxy_protocol: needs listen.trusted_proxies: without them every connection would"
        " be closed"
    )


@pytest.mark.parametrize(
    "listen",
    ['proxy_protocol = true\ntrusted_proxies = ["10.0.0.0/8"]', "proxy_protocol = false", ""],
)
def test_without_either_nothing_is_wrong(listen: str) -> None:
    assert read(config(f"[listen]\n{listen}")).listen.proxy_protocol is ("true" in listen)


def test_a_mistake_among_the_proxies_is_the_only_one() -> None:
    text = config('[listen]\nproxy_protocol = true\ntrusted_proxies = ["10.0.0.1/8"]')
    assert problem_in(text).place == "listen.trusted_proxies[0]"


@pytest.mark.parametrize(
    ("listen", "admin"),
    [
        pytest.param(("127.0.0.1", 9090), ("127.0.0.1", 9090), id="same"),
        pytest.param(("0.0.0.0", 9090), ("127.0.0.1", 9090), id="any-and-one"),  # noqa: S104
        pytest.param(("127.0.0.1", 9090), ("::", 9090), id="one-and-any"),
        pytest.param(("LocalHost", 9090), ("localhost", 9090), id="names"),
    ],
)
def test_clients_and_operators_have_listeners_of_their_own(
    listen: tuple[str, int], admin: tuple[str, int]
) -> None:
    head = f"""
        [listen]
        host = "{listen[0]}"
        port = {listen[1]}
        [admin]
        host = "{admin[0]}"
        port = {admin[1]}
    """
    assert str(problem_in(config(head))) == (
        "admin.port: listen.port is 9090 too: clients must not get here"
    )


def test_the_other_listeners_default_counts() -> None:
    assert problem_in(config("listen.port = 9090")).place == "admin.port"
    assert problem_in(config("admin.port = 8080")).place == "admin.port"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param('listen = { host = "10.0.0.1", port = 9090 }', id="other-host"),
        pytest.param("listen.port = 0\nadmin.port = 0", id="any-free-port"),
    ],
)
def test_listeners_that_do_not_meet_stand_side_by_side(head: str) -> None:
    read(config(head))


@pytest.mark.parametrize(
    "session",
    [
        pytest.param('update_age = "7d"', id="the-default"),
        pytest.param('expires_in = "24h"', id="of-the-default"),
        pytest.param('expires_in = "1h"\nupdate_age = "2h"', id="both"),
    ],
)
def test_a_young_session_is_not_due(session: str) -> None:
    problem = problem_in(config(f"[session]\n{session}"))
    assert str(problem).startswith("session.update_age: must be shorter than session.expires_in")
    read(config('[session]\nexpires_in = "25h"'))


@pytest.mark.parametrize("domain", ["localhost", ".test", "a..b", "a.b; Secure", "*.a.b", ""])
def test_a_cookies_domain_is_one(domain: str) -> None:
    read(config('[session]\ncookie_domain = ".example.com"'))
    problem = problem_in(config(f'[session]\ncookie_domain = "{domain}"'))
    assert "must be a domain such as" in str(problem)


@pytest.mark.parametrize(
    ("url", "section"),
    [
        pytest.param("http://127.0.0.1:8080", "listen", id="any-host-by-loopback"),
        pytest.param("http://localhost:8080", "listen", id="any-host-by-name"),
        pytest.param("http://[::1]:8080", "listen", id="any-host-by-ipv6"),
        pytest.param("http://0.0.0.0:8080", "listen", id="any-host-by-any"),
        pytest.param("http://127.0.0.1:9090", "admin", id="admin"),
        pytest.param("https://127.0.0.1:8080", "listen", id="https"),
    ],
)
def test_an_upstream_is_not_the_sidecar_itself(url: str, section: str) -> None:
    problem = problem_in(config(f'upstreams.loop.urls = ["{url}"]'))
    assert str(problem) == (
        f"upstreams.loop.urls[0]: is the sidecar itself: see {section}.host and {section}.port"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://chat:8080",
        "http://10.0.0.1:8080",
        "http://localhost:80",
        "https://localhost",
        "unix:/run/chat.sock",
    ],
)
def test_an_upstream_elsewhere_may_have_the_same_port(url: str) -> None:
    read(config(f'upstreams.other.urls = ["{url}"]'))


def test_a_url_is_named_once() -> None:
    """Twice, it would get twice the requests, which is not how anybody would say that."""
    text = config('upstreams.other.urls = ["http://a", "unix:/a", "http://A:80/", "HTTP://A:80"]')
    assert lines_in(text)[1] == "upstreams.other.urls[3]: urls[0] is the same"


@pytest.mark.parametrize("tls", ['server_name = "a.test"', 'ca_file = "/dev/null"'])
def test_settings_for_tls_need_a_url_with_tls(tls: str) -> None:
    """Whoever sets them believes that the connection is encrypted."""
    text = config(f'upstreams.other = {{ urls = ["http://a"], tls = {{ {tls} }} }}')
    assert lines_in(text)[0] == (
        'upstreams.other.tls: binds nothing: none of the urls is "https://…"'
    )
    secured = text.replace('"http://a"', '"http://a", "https://b"')
    assert "binds nothing" not in "".join(lines_in(secured + "x = 1"))


def test_an_empty_table_for_tls_is_no_mistake() -> None:
    read(config('upstreams.other = { urls = ["http://a"], tls = {} }'))


@pytest.mark.parametrize(
    "head",
    [
        "listen = 1",
        "admin.host = 2",
        "admin.port = 'x'",
        "session = []",
        "session.update_age = 1",
        "upstreams.a = 3",
        "upstreams.a.urls = 4",
        "upstreams.a.urls = [5]",
        "upstreams.a = { urls = ['https://a'], tls = 6 }",
        "upstreams.a = { urls = ['https://a'], tls.ca_file = 7 }",
    ],
)
def test_a_mistake_hides_none_of_the_disagreements(head: str) -> None:
    text = config(head, route='roles = ["owner"]').replace('upstream = "chat"', 'upstream = "b"')
    places = [line.split(":")[0] for line in lines_in(text)]
    assert "routes[0].upstream (/v1/chat)" in places
    assert "routes[0].roles (/v1/chat)" in places


@pytest.mark.parametrize("routes", ["routes = 1", "routes = [2]", "[routes]", "upstreams = 1"])
def test_nothing_is_compared_with_what_is_not_there(routes: str) -> None:
    assert all("must be" in line or "required" in line for line in lines_in(routes))
