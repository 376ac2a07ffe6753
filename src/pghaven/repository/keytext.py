"""A key as people keep it: one line of text in a file, on paper, or printed by a command.

The one idea: the line says what it opens by its first word, proves that it was copied right by a checksum, and names
whose signature the repository's key set must have. So who holds it cannot be given another repository's keys.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode
from dataclasses import dataclass, field
from enum import StrEnum

from pghaven.errors import NotPermitted

PRIVATE_BYTES = 32
ANCHOR_BYTES = 16
_CHECK_BYTES = 4
_TEXT = re.compile(r"pghaven-(reader|writer)-1-([a-z2-7]+)")
_AGE_IDENTITY = re.compile(r"AGE-(?:SECRET-KEY|PLUGIN-[A-Z0-9-]+)-1[A-Z0-9]+")


class Access(StrEnum):
    """What a key opens: everything, or only what a host must know to go on writing."""

    READER = "reader"
    WRITER = "writer"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyText:
    """``private`` opens the slot that has its public part; ``anchor`` begins the hash of the key set's signer."""

    access: Access
    private: bytes = field(repr=False)
    anchor: bytes

    def render(self) -> str:
        payload = self.private + self.anchor
        text = b32encode(payload + _checksum(self.access, payload)).decode("ascii").rstrip("=").lower()
        return f"pghaven-{self.access}-1-{text}"


def find_key_text(text: str) -> KeyText | None:
    """The key in the text of a file; what stands around it is for people. None when there is none.

    Raises NotPermitted for one that was copied wrong, and where there are several.
    """
    found = {match.group(): match for match in _TEXT.finditer(_without_remarks(text))}
    if len(found) > 1:
        raise NotPermitted("there is more than one key in it", hint="Keep each key in a file of its own.")
    if not found:
        return None
    (match,) = found.values()
    data = match[2].upper()
    try:
        payload = b32decode(data + "=" * (-len(data) % 8))
    except ValueError:
        payload = b""
    access = Access(match[1])
    body, check = payload[:-_CHECK_BYTES], payload[-_CHECK_BYTES:]
    key = KeyText(access=access, private=body[:PRIVATE_BYTES], anchor=body[PRIVATE_BYTES:])
    is_whole = len(body) == PRIVATE_BYTES + ANCHOR_BYTES and check == _checksum(access, body)
    if not is_whole or key.render() != match.group():
        raise NotPermitted("the key was not copied right: its checksum is wrong", hint="Copy the whole line again.")
    return key


def find_age_identities(text: str) -> tuple[str, ...]:
    """The secret keys in a file that age-keygen has written."""
    return tuple(_AGE_IDENTITY.findall(_without_remarks(text)))


def render_key_file(key: KeyText, url: str, slot: str) -> bytes:
    """The contents of a key file of the repository at ``url``."""
    what = (
        "Whoever has it reads every backup. Lost with all copies, what only it opens is lost for ever."
        if key.access is Access.READER
        else "Whoever has it can write backups, and read none."
    )
    return f"# A key of the pghaven repository {url}, slot {slot}.\n# {what}\n{key.render()}\n".encode()


def _without_remarks(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def _checksum(access: Access, payload: bytes) -> bytes:
    from blake3 import blake3

    return blake3(b"pghaven key text 1\0" + str(access).encode() + payload).digest()[:_CHECK_BYTES]
