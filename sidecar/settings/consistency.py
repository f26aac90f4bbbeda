"""What settings must agree about, and whether the files that they name can be used.

Looks at the file as it was written and skips whatever is wrong in itself, so that one mistake
never hides another.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

from sidecar.settings.addresses import FILE, HOST, PORT, UPSTREAM_URL, UpstreamURL
from sidecar.settings.authorities import client_context, trust, valkey_context
from sidecar.settings.forms import SWITCH
from sidecar.settings.key_pairs import CertificateError, KeyPair
from sidecar.settings.names import BUDGET_NAME, PASSWORD, PATH
from sidecar.settings.problems import value_at
from sidecar.settings.quantities import DURATION
from sidecar.settings.sections import Admin, Limits, Listen, Route, Section, Session
from sidecar.settings.valkey_urls import LIMITS_BACKEND, LOCAL, ValkeyURL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sidecar.settings.addresses import UnixURL
    from sidecar.settings.forms import Form
    from sidecar.settings.problems import Mistake, Place

    Tree = Mapping[str, object]
    Address = tuple[str, int]

T = TypeVar("T")

_ANY_HOST = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with, not bound
_BINDING = {
    "roles": "session",
    "permissions": "api_key",
    "limit": "api_key",
    "cost": "api_key",
}
"""Settings of routes, and the credential that each is about."""
_LISTENERS: dict[str, type[Section]] = {"listen": Listen, "admin": Admin}


def disagreements(tree: Tree) -> Iterator[Mistake]:
    """Yield what is wrong between settings that may each be right."""
    yield from _unknown_upstreams(tree)
    yield from _paths_served_twice(tree)
    yield from _sessions_without_secrets(tree)
    yield from _renewal_at_every_turn(tree)
    yield from _demands_on_nobody(tree)
    yield from _budgets_of_two_sizes(tree)
    yield from _costs_that_nobody_can_pay(tree)
    yield from _headers_from_nobody(tree)
    yield from _unusable_key_pair(("listen", "tls"), value_at(tree, ("listen", "tls")))
    yield from _secondary_of_nothing(tree)
    yield from _unusable_valkey_certificates(tree, ("store", "secondary"))
    yield from _backend_of_nothing(tree)
    yield from _unusable_valkey_certificates(tree, ("limits", "backend"))
    yield from _shared_listeners(tree)
    for name, upstream in _upstreams(tree):
        place: Place = ("upstreams", name)
        yield from _urls_of_the_sidecar(tree, place, upstream)
        yield from _urls_named_twice(place, upstream)
        yield from _tls_of_nothing(place, upstream)
        yield from _unusable_certificates(place, upstream)


def _unknown_upstreams(tree: Tree) -> Iterator[Mistake]:
    upstreams = value_at(tree, ("upstreams",))
    if not isinstance(upstreams, dict) or not upstreams:
        return
    known = ", ".join(f'"{name}"' for name in upstreams)
    for index, route in _routes(tree):
        name = route.get("upstream")
        if isinstance(name, str) and str(name) not in upstreams:
            yield ("routes", index, "upstream"), f"no such upstream; there is {known}"


def _paths_served_twice(tree: Tree) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, route in _routes(tree):
        path = _valid(PATH, route.get("path"))
        if path is not None and first.setdefault(path, index) != index:
            yield ("routes", index, "path"), f"routes[{first[path]}] has the same path"


def _sessions_without_secrets(tree: Tree) -> Iterator[Mistake]:
    if value_at(tree, ("session", "secrets")) not in (None, []):
        return
    admitting = [index for index, route in _routes(tree) if "session" in _admitted(route)]
    if admitting:
        yield (
            ("session", "secrets"),
            f"needs Better Auth's secret: routes[{admitting[0]}] admits sessions",
        )


def _renewal_at_every_turn(tree: Tree) -> Iterator[Mistake]:
    """A session that is as old as it may get would be due however young it is."""
    place: Place = ("session", "update_age")
    written = value_at(tree, ("session",))
    if not isinstance(written, dict):
        return
    lasts_s, age_s = (
        _valid(DURATION, written.get(name, Session.model_fields[name].default))
        for name in ("expires_in", "update_age")
    )
    if lasts_s is not None and age_s is not None and age_s >= lasts_s:
        yield place, "must be shorter than session.expires_in"


def _demands_on_nobody(tree: Tree) -> Iterator[Mistake]:
    """A demand that no admitted credential meets or misses would look like a protection."""
    for index, route in _routes(tree):
        for setting, kind in _BINDING.items():
            if route.get(setting) and kind not in _admitted(route):
                yield (
                    ("routes", index, setting),
                    f'binds nobody: the route\'s auth does not admit "{kind}"',
                )


def _budgets_of_two_sizes(tree: Tree) -> Iterator[Mistake]:
    """Routes that share a budget share one limit."""
    first: dict[str, tuple[int, object]] = {}
    for index, route in _routes(tree):
        limit = route.get("limit")
        if not isinstance(limit, dict):
            continue
        name = _valid(BUDGET_NAME, limit.get("budget"))
        size = (limit.get("requests"), _valid(DURATION, limit.get("window")))
        if name is None or None in size:
            continue
        before, size_before = first.setdefault(name, (index, size))
        if size != size_before:
            rule = "requests and window must be the same wherever a budget is shared"
            yield ("routes", index, "limit"), f'routes[{before}] says otherwise of "{name}": {rule}'


def _costs_that_nobody_can_pay(tree: Tree) -> Iterator[Mistake]:
    """A request that costs more than a whole window holds would never pass."""
    limits = value_at(tree, ("limits",))
    limits = limits if isinstance(limits, dict) else {}
    # By the default, a key's row may allow more than this section does.
    holds_for_all = limits.get("source", "row") != "row"
    default = Limits.model_fields["requests"].default
    for index, route in _routes(tree):
        bounds = {
            "the route's own limit": value_at(route, ("limit", "requests")),
            "limits.organization": value_at(limits, ("organization", "requests")),
            "limits.requests": limits.get("requests", default) if holds_for_all else None,
        }
        for name, bound in bounds.items():
            if type(bound) is int and type(cost := route.get("cost")) is int and cost > bound:
                yield (
                    ("routes", index, "cost"),
                    f"costs more than {name} allows in a window ({bound}): no request would pass",
                )
                break


def _headers_from_nobody(tree: Tree) -> Iterator[Mistake]:
    """Only trusted proxies may send a PROXY header, and nobody may come without one."""
    place: Place = ("listen", "proxy_protocol")
    if _valid(SWITCH, value_at(tree, place)) and value_at(tree, ("listen", "trusted_proxies")) in (
        None,
        [],
    ):
        yield place, "needs listen.trusted_proxies: without them every connection would be closed"


def _secondary_of_nothing(tree: Tree) -> Iterator[Mistake]:
    store = value_at(tree, ("store",))
    if not isinstance(store, dict) or "secondary" in store:
        return
    for setting in ("secondary_prefix", "secondary_holds"):
        if setting in store:
            yield ("store", setting), "needs store.secondary: there is no secondary storage"


def _backend_of_nothing(tree: Tree) -> Iterator[Mistake]:
    backend = value_at(tree, ("limits", "backend"))
    if backend in (None, LOCAL) and value_at(tree, ("limits", "on_error")) == "deny":
        yield ("limits", "on_error"), "needs limits.backend: requests are counted on this host"


def _unusable_valkey_certificates(tree: Tree, place: Place) -> Iterator[Mistake]:
    url = _valid(LIMITS_BACKEND, value_at(tree, place))
    if not isinstance(url, ValkeyURL) or not url.tls:
        return
    try:
        valkey_context(url)
    except CertificateError as error:
        yield place, f"{error.setting} {error.message}"


def _unusable_key_pair(place: Place, tls: object) -> Iterator[Mistake]:
    if not isinstance(tls, dict):
        return
    certificate, key = (_valid(FILE, tls.get(name)) for name in ("cert_file", "key_file"))
    password = _valid(PASSWORD, tls.get("key_password"))
    if certificate is None or key is None or (password is None and "key_password" in tls):
        return
    try:
        secret = None if password is None else password.get_secret_value()
        KeyPair(certificate, key, secret).load()
    except CertificateError as error:
        yield (*place, error.setting), error.message


def _shared_listeners(tree: Tree) -> Iterator[Mistake]:
    listen, admin = _listener(tree, "listen"), _listener(tree, "admin")
    if listen and admin and listen[1] == admin[1] != 0:
        hosts = {listen[0], admin[0]}
        if len(hosts) == 1 or hosts & _ANY_HOST:
            yield (("admin", "port"), f"listen.port is {listen[1]} too: clients must not get here")


def _urls_of_the_sidecar(tree: Tree, place: Place, upstream: Tree) -> Iterator[Mistake]:
    """Requests would go round in circles, or reach what only operators may see."""
    for index, url in _urls(upstream):
        for section in _LISTENERS:
            own = _listener(tree, section)
            if own and isinstance(url, UpstreamURL) and _reaches(own, (url.host, url.port)):
                yield (
                    (*place, "urls", index),
                    f"is the sidecar itself: see {section}.host and {section}.port",
                )


def _urls_named_twice(place: Place, upstream: Tree) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, url in _urls(upstream):
        before = first.setdefault(str(url), index)
        if before != index:
            yield (*place, "urls", index), f"urls[{before}] is the same"


def _tls_of_nothing(place: Place, upstream: Tree) -> Iterator[Mistake]:
    """Whoever sets this up believes that the connection is encrypted."""
    urls = dict(_urls(upstream))
    if value_at(upstream, ("tls",)) and urls and not any(map(_is_https, urls.values())):
        yield (*place, "tls"), 'binds nothing: none of the urls is "https://…"'


def _unusable_certificates(place: Place, upstream: Tree) -> Iterator[Mistake]:
    tls = value_at(upstream, ("tls",))
    if not isinstance(tls, dict):
        return
    ca_file = _valid(FILE, tls.get("ca_file"))
    if ca_file is not None:
        try:
            trust(client_context(), ca_file)
        except CertificateError as error:
            yield (*place, "tls", error.setting), error.message
    for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if one in tls and other not in tls:
            yield (*place, "tls", one), f"needs {other} beside it"
    yield from _unusable_key_pair((*place, "tls"), tls)


def _reaches(listener: Address, target: Address) -> bool:
    hosts_meet = target[0] == listener[0] or (listener[0] in _ANY_HOST and _is_local(target[0]))
    return hosts_meet and listener[1] == target[1]


def _is_local(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def _upstreams(tree: Tree) -> Iterator[tuple[str, Tree]]:
    upstreams = value_at(tree, ("upstreams",))
    for name, upstream in upstreams.items() if isinstance(upstreams, dict) else ():
        if isinstance(upstream, dict):
            yield name, upstream


def _urls(upstream: Tree) -> Iterator[tuple[int, UpstreamURL | UnixURL]]:
    """Yield the URLs that can be read, with their place in the list."""
    urls = value_at(upstream, ("urls",))
    for index, raw in enumerate(urls if isinstance(urls, list) else ()):
        url = _valid(UPSTREAM_URL, raw)
        if url is not None:
            yield index, url


def _is_https(url: UpstreamURL | UnixURL) -> bool:
    return isinstance(url, UpstreamURL) and url.scheme == "https"


def _routes(tree: Tree) -> Iterator[tuple[int, dict[str, object]]]:
    routes = value_at(tree, ("routes",))
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        if isinstance(route, dict):
            yield index, route


def _admitted(route: dict[str, object]) -> list[object]:
    default = list(Route.model_fields["auth"].default)
    admitted = route.get("auth", default)
    return [str(kind) for kind in admitted] if isinstance(admitted, list) else default


def _listener(tree: Tree, section: str) -> Address | None:
    fields = _LISTENERS[section].model_fields
    written = value_at(tree, (section,)) or {}
    if not isinstance(written, dict):
        return None
    host = _valid(HOST, written.get("host", fields["host"].default))
    port = _valid(PORT, written.get("port", fields["port"].default))
    return None if host is None or port is None else (host, port)


def _valid(form: Form[T], value: object) -> T | None:
    try:
        return form.parse(value)
    except ValueError:
        return None
