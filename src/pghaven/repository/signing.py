"""Who signs for a sealed repository, and what is signed of a document.

The one idea: a seal tells that some host of the repository wrote a document, and every host that writes can make one.
What is proven by reading is signed with the key that also signs the key sets, which only readers have; its public part
is in the key set that every host opens, and is named by every key text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pghaven.repository.seal import Signer

_DOMAIN = b"pghaven evidence 1\0"
_SIGNATURE = "signature"


class Signature(StrEnum):
    """What is known of a document's signature. NO_KEY: the repository is not sealed, so nobody can sign."""

    GOOD = "good"
    MISSING = "missing"
    WRONG = "wrong"
    NO_KEY = "no_key"

    @property
    def doubt(self) -> str | None:
        """Why a document does not count; None where it does."""
        return _DOUBTS.get(self)


_DOUBTS = {
    Signature.MISSING: "it is not signed, and a host that only writes could have made it",
    Signature.WRONG: "its signature is wrong: it is not what was signed, or not by whom it should be",
}


def sign_body(signer: Signer | None, context: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body with a signature if there is a key to sign with. ``context`` is the repository's id and the object's
    name, so that it counts under that name alone."""
    if signer is None or signer.seed is None:
        return body
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(signer.seed)
    return {**body, _SIGNATURE: key.sign(_message(context, body)).hex()}


def check_body(signer: Signer | None, context: str, body: Mapping[str, Any]) -> Signature:
    """Whether a body read under this context was signed by the repository's signer."""
    if signer is None:
        return Signature.NO_KEY
    if _SIGNATURE not in body:
        return Signature.MISSING
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        signature = bytes.fromhex(body[_SIGNATURE])
        Ed25519PublicKey.from_public_bytes(signer.public).verify(signature, _message(context, body))
    except (InvalidSignature, TypeError, ValueError):
        return Signature.WRONG
    return Signature.GOOD


def _message(context: str, body: Mapping[str, Any]) -> bytes:
    signed = {name: value for name, value in body.items() if name != _SIGNATURE}
    return _DOMAIN + context.encode() + b"\0" + json.dumps(signed, sort_keys=True).encode()
