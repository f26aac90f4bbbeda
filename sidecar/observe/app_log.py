"""What the sidecar says of itself, on stderr: lines for programs or for people."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

from sidecar.observe.redact import redact

_OWN = "sidecar"


def configure(level: str, *, as_text: bool) -> None:
    """Send the log of this process to stderr, from *level* on.

    Other libraries speak from `warning` on: at `debug` they would write down what they carry.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TextFormatter() if as_text else _JSONFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(_OWN).setLevel(level.upper())


class _TextFormatter(logging.Formatter):
    """`12:00:01 warning store: …`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        name = record.name.removeprefix(_OWN + ".")
        text = f"{time} {record.levelname.lower()} {name}: {redact(record.getMessage())}"
        if record.exc_info:
            text += "\n" + redact(self.formatException(record.exc_info))
        return text


class _JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()
