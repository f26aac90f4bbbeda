"""How a sidecar would call the demonstration's upstreams."""

TOKEN = "the-internal-token"

ACME = {
    "x-internal-token": TOKEN,
    "x-organization-id": "acme",
    "x-user-id": "ada",
    "x-organization-role": "owner",
    "x-auth-method": "session",
}
GLOBEX = {**ACME, "x-organization-id": "globex", "x-user-id": "grace"}
