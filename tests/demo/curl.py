"""What of curl the demonstration's lines use, for machines without it.

Bytes go to stdout as they come, so that events show one by one.
"""

from __future__ import annotations

import argparse
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 30
PIECE_BYTES = 1 << 20


def main() -> None:
    options = parse(sys.argv[1:])
    began = time.monotonic()
    url = urlsplit(options.url)
    connection = HTTPConnection(url.netloc, timeout=TIMEOUT_S)
    headers = dict(line.split(": ", 1) for line in options.header)
    if options.cookie:
        headers["cookie"] = options.cookie
    method = "GET" if options.data is None else "POST"
    target = f"{url.path}?{url.query}" if url.query else url.path
    connection.request(method, target, options.data, headers)
    response = connection.getresponse()
    if options.include:
        fields = [f"{name}: {value}" for name, value in response.getheaders()]
        head = [f"HTTP/1.1 {response.status} {response.reason}", *fields, "", ""]
        show("\r\n".join(head))
    received = 0
    with Path(options.output or "/dev/stdout").open("wb", buffering=0) as output:
        while piece := response.read1(PIECE_BYTES):
            output.write(piece)
            received += len(piece)
    summary = {
        "%{http_code}": str(response.status),
        "%{size_download}": str(received),
        "%{time_total}": f"{time.monotonic() - began:.6f}",
        r"\n": "\n",
    }
    for name, value in summary.items():
        options.write_out = options.write_out.replace(name, value)
    show(options.write_out)


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for flag in ("-s", "-S", "-N"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-i", dest="include", action="store_true")
    parser.add_argument("-H", dest="header", action="append", default=[])
    parser.add_argument("-b", dest="cookie")
    parser.add_argument("-d", dest="data")
    parser.add_argument("-o", dest="output")
    parser.add_argument("-w", dest="write_out", default="")
    parser.add_argument("url")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
