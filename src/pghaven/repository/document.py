"""Small JSON objects of the repository (descriptor, lineage, intent, decision): proven by hash, sealed where it is.

The one idea: two lines, the JSON and the BLAKE3 hash of what the object is together with the first line. A flipped
byte, and a document served under another name, are found. In a sealed repository the JSON is an envelope around the
sealed one, so that damage is told from a wrong key; every host that writes can open it.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from pghaven.errors import Damaged, Refused
from pghaven.repository.seal import Keyring, SealKind

_DOCUMENT_BYTES_MAX = 4 << 20
_ENVELOPE = "sealed"
_ASSOCIATED = b"pghaven document 1\0"


def render_document(context: str, body: Mapping[str, Any]) -> bytes:
    """The stored bytes of a document; ``context`` is the repository's id and the object's name.

    Raises Refused for one that is too large to be read again.
    """
    line = _render_json(body) + b"\n"
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
    return _parse_json(line)


def seal_body(context: str, body: Mapping[str, Any], keyring: Keyring) -> Mapping[str, Any]:
    """What to store of a body: itself in the open, else an envelope that every host can open."""
    if not keyring.is_sealing:
        return body
    sealer = keyring.new_sealer(for_hosts=True)
    content = sealer.seal(0, _render_json(body), _ASSOCIATED + context.encode())
    return {
        _ENVELOPE: {
            "seal": int(sealer.kind),
            "key": sealer.key_id.hex(),
            "salt": sealer.salt.hex(),
            "content": b64encode(content).decode("ascii"),
        }
    }


def open_body(context: str, stored: dict[str, Any], keyring: Keyring) -> dict[str, Any]:
    """The inverse. Raises Damaged, also for a body in the open where documents are sealed; NotPermitted."""
    if _ENVELOPE not in stored:
        if keyring.is_sealing:
            raise Damaged("it is not sealed although this repository is")
        return stored
    try:
        envelope = stored[_ENVELOPE]
        kind, key_id, salt = envelope["seal"], bytes.fromhex(envelope["key"]), bytes.fromhex(envelope["salt"])
        content = b64decode(envelope["content"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"its envelope cannot be read ({type(error).__name__})") from error
    if kind != SealKind.SHARED:
        raise Damaged(f"its seal {kind} is not that of a document")
    sealer = keyring.sealer_for(kind, key_id, salt)
    return _parse_json(bytes(sealer.unseal(0, content, _ASSOCIATED + context.encode())))


def _render_json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(", ", ": "), sort_keys=True).encode("ascii")


def _parse_json(line: bytes) -> dict[str, Any]:
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
