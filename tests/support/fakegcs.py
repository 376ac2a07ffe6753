"""Google Cloud Storage's XML API as far as pghaven speaks it, in memory; ``python -m tests.support.fakegcs BUCKET…``.

The one idea: there is no emulator of this API, so what is answered here follows its reference: a put with
x-goog-if-generation-match: 0 is a create, also as a copy; large ones come in parts, which know no conditions; errors
have a code in their body, listings come in pages and sorted.

Prints the port it listens on.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import sys
import threading
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


@dataclass(frozen=True, slots=True)
class _Object:
    content: bytes
    generation: int
    modified: float

    @property
    def e_tag(self) -> str:
        return f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"'


class FakeGcs(ThreadingHTTPServer):
    """Listens on a free port of the loopback interface."""

    daemon_threads = True

    def __init__(self, buckets: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.buckets: dict[str, dict[str, _Object]] = {name: {} for name in buckets}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()
        self.generations = itertools.count(1000)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # else head and body are two packets, and the second waits for the first
    server: FakeGcs

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if (found := self._find_bucket()) is None:
            return
        objects, key, query = found
        if "uploadId" in query:
            self._take_part(query, content)
            return
        if source := self.headers.get("x-goog-copy-source"):
            bucket, _, source_key = unquote(source).lstrip("/").partition("/")
            if (copied := self.server.buckets[bucket].get(source_key)) is None:
                self._refuse(404, "NoSuchKey")
                return
            content = copied.content
        self._put(objects, key, content)

    def _put(self, objects: dict[str, _Object], key: str, content: bytes) -> None:
        wanted = self.headers.get("x-goog-if-generation-match")
        with self.server.lock:
            current = objects.get(key)
            if wanted is not None and int(wanted) != (current.generation if current else 0):
                self._refuse(412, "PreconditionFailed")
                return
            made = _Object(content, next(self.server.generations), _now())
            objects[key] = made
        body = f"<Done><ETag>{escape(made.e_tag)}</ETag></Done>".encode()
        self._answer(200, body, {"ETag": made.e_tag, "x-goog-generation": str(made.generation)})

    def do_POST(self) -> None:
        """An upload in parts: its beginning or its end."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (found := self._find_bucket()) is None:
            return
        objects, key, query = found
        if "uploadId" not in query:
            upload = str(next(self.server.generations))
            self.server.uploads[upload] = {}
            self._answer(200, f"<Begun><UploadId>{upload}</UploadId></Begun>".encode())
        elif (parts := self.server.uploads.pop(query["uploadId"], None)) is None:
            self._refuse(404, "NoSuchUpload")
        else:
            self._put(objects, key, b"".join(parts[number] for number in sorted(parts)))

    def _take_part(self, query: dict[str, str], content: bytes) -> None:
        if (parts := self.server.uploads.get(query["uploadId"])) is None:
            self._refuse(404, "NoSuchUpload")
            return
        parts[int(query["partNumber"])] = content
        self._answer(200, headers={"ETag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'})

    def do_DELETE(self) -> None:
        if (found := self._find_bucket()) is None:
            return
        objects, key, query = found
        if "uploadId" in query:
            self.server.uploads.pop(query["uploadId"], None)
            self._answer(204)
            return
        with self.server.lock:
            gone = objects.pop(key, None)
        if gone is None:
            self._refuse(404, "NoSuchKey")
        else:
            self._answer(204)

    def do_GET(self) -> None:
        if (found := self._find_bucket()) is None:
            return
        objects, key, query = found
        if not key:
            self._list(objects, query)
            return
        one = objects.get(key)
        if one is None:
            self._refuse(404, "NoSuchKey")
            return
        headers = {"ETag": one.e_tag, "x-goog-generation": str(one.generation), "Last-Modified": _date(one.modified)}
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, one.content, headers)
            return
        first, last, size = int(wanted[1]), int(wanted[2]), len(one.content)
        if first >= size:
            self._refuse(416, "InvalidRange")
            return
        last = min(last, size - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._answer(206, one.content[first : last + 1], headers)

    do_HEAD = do_GET

    def _list(self, objects: dict[str, _Object], query: dict[str, str]) -> None:
        prefix, delimiter, after = query.get("prefix", ""), query.get("delimiter"), query.get("continuation-token", "")
        contents: list[str] = []
        prefixes: list[str] = []
        last, truncated = "", False
        for key in sorted(objects):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            entry = key if cut < 0 else key[: cut + 1]
            if not key.startswith(prefix) or entry <= after or entry == last:
                continue
            if len(contents) + len(prefixes) == PAGE:
                truncated = True
                break
            last = entry
            if cut >= 0:
                prefixes.append(f"<CommonPrefixes><Prefix>{escape(entry)}</Prefix></CommonPrefixes>")
                continue
            one = objects[key]
            contents.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{_iso(one.modified)}</LastModified>"
                f"<ETag>{escape(one.e_tag)}</ETag><Size>{len(one.content)}</Size></Contents>"
            )
        more = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if truncated else ""
        body = (
            f"<ListBucketResult><IsTruncated>{'true' if truncated else 'false'}</IsTruncated>{more}"
            f"{''.join(contents)}{''.join(prefixes)}</ListBucketResult>"
        )
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _find_bucket(self) -> tuple[dict[str, _Object], str, dict[str, str]] | None:
        address = urlsplit(self.path)
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        if bucket not in self.server.buckets:
            self._refuse(404, "NoSuchBucket")
            return None
        return self.server.buckets[bucket], key, {name: values[-1] for name, values in parse_qs(address.query).items()}

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>see the code</Message></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _now() -> float:
    from time import time

    return time()


def _date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)


def _iso(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def main() -> None:
    server = FakeGcs(sys.argv[1:])
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
