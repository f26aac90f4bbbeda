"""The tables of Better Auth 1.7 with the organization, api-key and admin plugins, for PostgreSQL.

They stand as Better Auth's own adapter makes them, so that Better Auth accepts them as its own.
"""

from __future__ import annotations

from sidecar.store.layout import quoted

_NOW = "timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL"
_USER = 'text NOT NULL REFERENCES {schema}."user" ("id") ON DELETE CASCADE'
_ORGANIZATION = 'text NOT NULL REFERENCES {schema}."organization" ("id") ON DELETE CASCADE'
_KEY = "text NOT NULL PRIMARY KEY"

_TABLES: dict[str, dict[str, str]] = {
    "user": {
        "id": _KEY,
        "name": "text NOT NULL",
        "email": "text NOT NULL UNIQUE",
        "emailVerified": "boolean NOT NULL",
        "image": "text",
        "createdAt": _NOW,
        "updatedAt": _NOW,
        "role": "text",
        "banned": "boolean",
        "banReason": "text",
        "banExpires": "timestamptz",
    },
    "session": {
        "id": _KEY,
        "expiresAt": "timestamptz NOT NULL",
        "token": "text NOT NULL UNIQUE",
        "createdAt": _NOW,
        "updatedAt": "timestamptz NOT NULL",
        "ipAddress": "text",
        "userAgent": "text",
        "userId": _USER,
        "activeOrganizationId": "text",
        "impersonatedBy": "text",
    },
    "account": {
        "id": _KEY,
        "accountId": "text NOT NULL",
        "providerId": "text NOT NULL",
        "userId": _USER,
        "accessToken": "text",
        "refreshToken": "text",
        "idToken": "text",
        "accessTokenExpiresAt": "timestamptz",
        "refreshTokenExpiresAt": "timestamptz",
        "scope": "text",
        "password": "text",
        "createdAt": _NOW,
        "updatedAt": "timestamptz NOT NULL",
    },
    "verification": {
        "id": _KEY,
        "identifier": "text NOT NULL",
        "value": "text NOT NULL",
        "expiresAt": "timestamptz NOT NULL",
        "createdAt": _NOW,
        "updatedAt": _NOW,
    },
    "organization": {
        "id": _KEY,
        "name": "text NOT NULL",
        "slug": "text NOT NULL UNIQUE",
        "logo": "text",
        "createdAt": "timestamptz NOT NULL",
        "metadata": "text",
    },
    "member": {
        "id": _KEY,
        "organizationId": _ORGANIZATION,
        "userId": _USER,
        "role": "text NOT NULL",
        "createdAt": "timestamptz NOT NULL",
    },
    "invitation": {
        "id": _KEY,
        "organizationId": _ORGANIZATION,
        "email": "text NOT NULL",
        "role": "text",
        "status": "text NOT NULL",
        "expiresAt": "timestamptz NOT NULL",
        "createdAt": _NOW,
        "inviterId": _USER,
    },
    "apikey": {
        "id": _KEY,
        "configId": "text NOT NULL",
        "name": "text",
        "start": "text",
        "referenceId": "text NOT NULL",
        "prefix": "text",
        "key": "text NOT NULL",
        "refillInterval": "integer",
        "refillAmount": "integer",
        "lastRefillAt": "timestamptz",
        "enabled": "boolean",
        "rateLimitEnabled": "boolean",
        "rateLimitTimeWindow": "integer",
        "rateLimitMax": "integer",
        "requestCount": "integer",
        "remaining": "integer",
        "lastRequest": "timestamptz",
        "expiresAt": "timestamptz",
        "createdAt": "timestamptz NOT NULL",
        "updatedAt": "timestamptz NOT NULL",
        "permissions": "text",
        "metadata": "text",
    },
}
_INDEXES = (
    *(("session", "userId"), ("account", "userId"), ("verification", "identifier")),
    *(("member", "organizationId"), ("member", "userId")),
    *(("invitation", "organizationId"), ("invitation", "email")),
    *(("apikey", "configId"), ("apikey", "referenceId"), ("apikey", "key")),
)


def catalogue() -> dict[str, dict[str, str]]:
    """Return the tables by name, with their columns and the types of these."""
    return {
        table: {name: _type(declared) for name, declared in columns.items()}
        for table, columns in _TABLES.items()
    }


def statements(schema: str) -> list[str]:
    """Return what makes the tables and their indexes in *schema*."""
    place = quoted(schema)
    made = []
    for table, columns in _TABLES.items():
        parts = [f'  "{name}" {declared}' for name, declared in columns.items()]
        body = ",\n".join(parts).replace("{schema}", place)
        made.append(f'CREATE TABLE {place}."{table}" (\n{body}\n)')
    return made + [
        f'CREATE INDEX "{table}_{name}_idx" ON {place}."{table}" ("{name}")'
        for table, name in _INDEXES
    ]


def _type(declared: str) -> str:
    kind = declared.split(maxsplit=1)[0]
    return {"integer": "int4", "boolean": "bool"}.get(kind, kind)
