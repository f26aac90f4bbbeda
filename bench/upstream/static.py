"""The upstream of plain requests: nginx, which answers from its configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bench.peers.base import STATIC_PREFIX
from bench.peers.nginx import HTTP_BASICS, PREAMBLE, launch
from bench.ports import HOST

if TYPE_CHECKING:
    from pathlib import Path

    from bench.peers.base import Launch

ITEM_PATH = f"{STATIC_PREFIX}/item"
"""The document that the load asks for, under this path and under all below it."""
SEEN_PATH = f"{STATIC_PREFIX}/seen"
"""Tells which identity and credential arrived."""

ITEM = json.dumps(
    {
        "id": "msg_01JD3K9V7Q4X2B8M6N5P0R1S2T",
        "object": "chat.message",
        "created": 1795431600,
        "role": "assistant",
        "content": "A proxy should cost nothing that anyone would notice, and should let no"
        " stranger in, ever.",
        "usage": {"input": 31, "output": 27},
    }
)
_SEEN = {
    "organization": "$http_x_organization_id",
    "user": "$http_x_user_id",
    "role": "$http_x_organization_role",
    "method": "$http_x_auth_method",
    "key_id": "$http_x_api_key_id",
    "credential": "$http_x_api_key",
}


def configuration(port: int) -> str:
    """Return the upstream's nginx.conf."""
    return f"""{PREAMBLE}http {{
{HTTP_BASICS}
    server {{
        listen {HOST}:{port} backlog=4096;
        location {ITEM_PATH} {{
            return 200 '{ITEM}';
        }}
        location = {SEEN_PATH} {{
            return 200 '{json.dumps(_SEEN)}';
        }}
    }}
}}
"""


def upstream(directory: Path, port: int) -> Launch:
    """Return what serves on *port*."""
    return launch(directory, configuration(port))
