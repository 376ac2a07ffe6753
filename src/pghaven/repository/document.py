"""Small JSON objects of the repository (descriptor, lineage, intent, decision): readable by eye, proven by hash.

The one idea: two lines, the JSON and the BLAKE3 hash of what the object is together with the first line. A flipped
byte, and a document served under another name, are found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pghaven.errors import Damaged, Refused

_DOCUMENT_BYTES_MAX = 4 << 20


def render_document(context: str, body: Mapping[str, Any]) -> bytes:
    """The stored bytes of a document; ``context`` is the repository's id and the object's name.

    Raises Refused for one that is too large to be read again.
    """
    line = json.dumps(body, separators=(", ", ": "), sort_keys=True).encode("ascii") + b"\n"
    data = line + _hash(context, line) + b"\n"
    if len(data) > _DOCUMENT_BYTES_MAX:
        raise Refused(f"a document of {len(data)} bytes is more than any reader takes")
    return data


def parse_document(context: str, data: bytes) -> dict[str, Any]:
    """The body of a document. Raises Damaged when it is not what was stored under this name."""
    if len(data) > _DOCUMENT_BYTES_MAX:
        raise Damaged("it is far larger than such a document can be")
    line, newline, rest = data.partition(b"\n")
    if not newline or rest != _hash(context, line + newline) + b"\n":
        raise Damaged("it does not have the hash it was stored with, or it is not the object it is named as")
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"it cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise Damaged("it is not a JSON object")
    return body


def _hash(context: str, line: bytes) -> bytes:
    import blake3

    return blake3.blake3(context.encode() + b"\0" + line).hexdigest().encode("ascii")
