"""Names that settings give: of headers, cookies, methods, roles, paths, upstreams; secrets."""

import re
from typing import Annotated, Final

from pydantic import SecretStr

from sidecar.settings.forms import TEXT, Form, text_matching
from sidecar.settings.tables import COLUMNS

MIN_SECRET_CHARACTERS: Final = 16

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # RFC 9110 section 5.6.2
_IS_TOKEN = re.compile(_TOKEN)
_IS_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_LETTER_OR_DIGIT = re.compile(r"[^a-z0-9]")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")  # RFC 3986 section 3.3, without escapes

RESERVED_HEADERS: Final = frozenset(
    (
        # Who the caller is, as upstreams are told.
        *("x-organization-id", "x-user-id", "x-organization-role", "x-auth-method"),
        *("x-api-key-id", "x-internal-token", "x-request-id"),
        # Where the request came from.
        *("forwarded", "x-real-ip", "x-rewrite-url", "origin"),
        # The other credential, and what RFC 9110, RFC 9112 and RFC 6265 need for themselves.
        *("cookie", "set-cookie", "host", "content-length", "transfer-encoding", "te", "trailer"),
        *("connection", "proxy-connection", "keep-alive", "upgrade", "http2-settings", "expect"),
        *("proxy-authenticate", "proxy-authorization"),
    )
)
RESERVED_PREFIXES: Final = ("x-forwarded-", "x-original-", "x-sidecar-", "access-control-")

TAKEN_BUDGET_NAMES: Final = frozenset(("default", "organization", "route"))
"""What clients are told that limits without a name of their own are called."""


def _read_key_header(text: str) -> str | None:
    if not _IS_TOKEN.fullmatch(text):
        return None
    name = text.lower()
    # In every spelling that a CGI-like upstream merges with the header that is meant.
    folded = _NOT_LETTER_OR_DIGIT.sub("-", name)
    if folded in RESERVED_HEADERS or folded.startswith(RESERVED_PREFIXES):
        raise ValueError("must be a header that has no other meaning")
    return name


def _read_cookie_name(text: str) -> str | None:
    if text.startswith(("__Secure-", "__Host-")):
        raise ValueError('must not begin with "__Secure-" or "__Host-": both are looked for anyway')
    return text if _IS_TOKEN.fullmatch(text) else None


def _read_role(text: str) -> str | None:
    return None if "," in text else TEXT.read(text)


def _read_store_name(text: str) -> str | None:
    table, dot, column = text.partition(".")
    if table not in COLUMNS:
        raise ValueError(f"must begin with a table of Better Auth's: {', '.join(COLUMNS)}")
    if dot and column not in COLUMNS[table]:
        raise ValueError(f"must be {table} alone, or with {_any_of(COLUMNS[table])}")
    return text


def _any_of(columns: tuple[str, ...]) -> str:
    return ", ".join(f".{column}" for column in columns)


def _read_path(text: str) -> str | None:
    """Return a path in the one spelling that sidecar and upstream read alike."""
    if not _PATH.fullmatch(text) or (text.endswith("/") and text != "/"):
        return None
    # Some servers cut a segment at ";": to them it would be another path.
    if ";" in text or (text != "/" and {"", ".", ".."} & set(text[1:].split("/"))):
        return None
    return text


def _read_budget_name(text: str) -> str | None:
    return text if _IS_NAME.fullmatch(text) and text not in TAKEN_BUDGET_NAMES else None


def _read_secret(text: str) -> SecretStr | None:
    return SecretStr(text) if len(text) >= MIN_SECRET_CHARACTERS else None


def _read_password(text: str) -> SecretStr | None:
    """Return what somebody else chose: however short, and of whatever characters."""
    return SecretStr(text) if text else None


def _read_token(text: str) -> SecretStr | None:
    """Return a secret that a header can carry and no upstream trims (RFC 9110 section 5.5)."""
    if not all("!" <= character <= "~" for character in text):
        return None
    return _read_secret(text)


KEY_HEADER = Form("header name", 'a header\'s name, such as "x-api-key"', _read_key_header)
STORE_NAME = Form(
    "store name",
    'a table or column by Better Auth\'s own name, such as "apikey" or "apikey.userId"',
    _read_store_name,
)
COOKIE_NAME = Form(
    "cookie name", 'a cookie\'s name, such as "better-auth", without spaces', _read_cookie_name
)
COOKIE_DOMAIN = text_matching(
    "cookie domain",
    'a domain such as ".example.com"',
    r"\.?(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}",
)
METHOD = text_matching("method", 'an HTTP method in capitals, such as "GET"', r"[A-Z][A-Z-]{0,31}")
ROLE = Form("role", "one role, without commas", _read_role)
PATH = Form(
    "path",
    'a path such as "/v1/chat": without a query, percent escapes, ";", "//", segments "." and'
    ' "..", or "/" at its end',
    _read_path,
)
TARGET = text_matching(
    "target", 'a path such as "/healthz", with a query or without', r"/[!-\"$-~]{0,1023}"
)
UPSTREAM_NAME = text_matching(
    "name", 'a name of at most 64 letters, digits, "-" and "_"', _IS_NAME.pattern
)
BUDGET_NAME = Form(
    "budget name",
    'a name of at most 64 letters, digits, "-" and "_", but not one that other limits have'
    ' ("default", "organization", "route")',
    _read_budget_name,
)
SECRET = Form(
    "secret",
    f"a secret of at least {MIN_SECRET_CHARACTERS} characters (Better Auth asks for 32)",
    _read_secret,
    secret=True,
)
INTERNAL_TOKEN = Form(
    "token",
    f"a secret of at least {MIN_SECRET_CHARACTERS} ASCII characters, without spaces",
    _read_token,
    secret=True,
)

PASSWORD = Form("password", "a password that is not empty", _read_password, secret=True)

KeyHeader = Annotated[str, KEY_HEADER]
"""In lower case."""
StoreName = Annotated[str, STORE_NAME]
CookieName = Annotated[str, COOKIE_NAME]
CookieDomain = Annotated[str, COOKIE_DOMAIN]
Method = Annotated[str, METHOD]
Role = Annotated[str, ROLE]
RoutePath = Annotated[str, PATH]
Target = Annotated[str, TARGET]
UpstreamName = Annotated[str, UPSTREAM_NAME]
BudgetName = Annotated[str, BUDGET_NAME]
Secret = Annotated[SecretStr, SECRET]
InternalToken = Annotated[SecretStr, INTERNAL_TOKEN]
Password = Annotated[SecretStr, PASSWORD]
