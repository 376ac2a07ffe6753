"""What the answers of object stores mean: the authority on which of them prove something, and which may change.

The one idea: *absent* and *exists* are taken only from an answer that says so in its own words (an error code in its
body, or 412 to a conditional create). A bare status can come from anything on the way, and proves nothing.

The client's errors are told apart by their text, since it has no fields for status and code. It is cut before it is
shown: an address in it may hold a token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto


class Meaning(Enum):
    """What a failed request tells."""

    ABSENT = auto()  # the object is proven absent
    PLACE_ABSENT = auto()  # there is no such bucket or container
    EXISTS = auto()  # a conditional create found the name taken
    BEYOND = auto()  # a range begins behind the object's end
    DENIED = auto()  # keys are missing, wrong, expired, or not allowed to do this
    PASSING = auto()  # the same request may succeed later
    SILENT = auto()  # as PASSING, and there was not even a connection
    UNKNOWN = auto()  # the store does not know such a request
    FINAL = auto()  # it will fail again


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A failed request. ``reason`` is one line for people without any secret; ``hint`` is set where there is one."""

    meaning: Meaning
    reason: str
    code: str = ""
    hint: str | None = None


_STATUS = re.compile(r"non-2xx status code: ([0-9]{3}) ?([A-Za-z' -]*)")
_CODE = re.compile(r"<Code>([A-Za-z0-9_.]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")
_CAUSE = re.compile(r'message: "([^"]{1,200})"')
# What Azurite says where Azure says 416.
_BEYOND = re.compile(
    r'CONTENT_RANGE header: "bytes [^"/]*/0"|Wanted range starting at ([0-9]+), but object was only \1 '
)
_BULK = re.compile(r"Bulk delete request failed for key \S+: (.*) \(code: ([0-9]{3})\)")
_QUERY = re.compile(r"\?\S*")
_KEY_SERVICES = ("169.254.", "fd00:ec2::", "metadata.google.internal")

_ABSENT = frozenset({"NoSuchKey", "BlobNotFound"})
_PLACE_ABSENT = frozenset({"NoSuchBucket", "ContainerNotFound", "AccountNotFound"})
_EXISTS = frozenset({"PreconditionFailed", "BlobAlreadyExists"})
_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired"}
)
_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestTimeTooNew"})
_BUSY = frozenset({"SlowDown", "RequestTimeout", "RequestLimitExceeded", "ThrottlingException", "ServerBusy"})

HINT_KEYS = "Where keys are looked for, and what they must allow, is in docs/guide/object-stores.md."
HINT_SINGLE = "If no two commands ever write at once, the option single_writer does without conditional requests."
_HINT_CLOCK = "The clock of this machine is wrong; set it right, as by NTP."
_HINT_CA = "If the store has a certificate authority of its own, name its PEM file with the option ca_file."
_HINT_REGION = "The bucket is in another region: set the option region."


class Truncated(Exception):
    """An answer ended before its end."""


def read_answer(error: Exception) -> Answer:
    """What an error of the client means. Pure."""
    if isinstance(error, Truncated):
        return Answer(meaning=Meaning.PASSING, reason="the answer was cut short")
    text = str(error)
    head = text.partition("\n\nDebug source")[0]
    if any(service in head.partition(" - ")[0] for service in _KEY_SERVICES):
        return Answer(
            meaning=Meaning.DENIED,
            reason="no keys were found, nor a service on this host that hands them out",
            hint=HINT_KEYS,
        )
    if status := _STATUS.search(head):
        return _read_status(int(status[1]), status[2].strip(), head)
    if bulk := _BULK.search(head):
        return _read_bulk(int(bulk[2]), bulk[1])
    if _BEYOND.search(head):
        return Answer(meaning=Meaning.BEYOND, reason="the object ends before")
    if "Received redirect without LOCATION" in head:
        return Answer(meaning=Meaning.FINAL, reason="it answered with a redirect", hint=_HINT_REGION)
    if kind := _KIND.search(text):
        return _read_silence(kind[1], text)
    first = _QUERY.sub("", head.splitlines()[0] if head else type(error).__name__)
    return Answer(meaning=Meaning.PASSING, reason=f"its answer makes no sense ({first[:300]})")


def _read_status(status: int, words: str, head: str) -> Answer:
    found, message = _CODE.search(head), _MESSAGE.search(head)
    code = found[1] if found else ""
    words_of_its_own = message[1].splitlines()[0] if message else ""  # Azure's go on with the request's number and time
    said = ": ".join(part for part in (code, words_of_its_own) if part)
    reason = f"{status} {words}".strip() + (f" ({said})" if said else "")
    meaning, hint = _weigh(status, code)
    return Answer(meaning=meaning, reason=reason, code=code, hint=hint)


def _read_bulk(status: int, message: str) -> Answer:
    """Azure's answer to one delete of several, of which the client leaves status and message."""
    code = "BlobNotFound" if message == "The specified blob does not exist." else ""
    meaning, hint = _weigh(status, code)
    return Answer(meaning=meaning, reason=f"{status} ({message})", code=code, hint=hint)


def _weigh(status: int, code: str) -> tuple[Meaning, str | None]:
    if status == 404:
        if code in _ABSENT:
            return Meaning.ABSENT, None
        return (Meaning.PLACE_ABSENT, None) if code in _PLACE_ABSENT else (Meaning.FINAL, None)
    if status == 412 or (status == 409 and code in _EXISTS):
        return Meaning.EXISTS, None
    if status == 416:
        return Meaning.BEYOND, None
    if code in _CLOCK:
        return Meaning.DENIED, _HINT_CLOCK
    if code in _BUSY or status in (408, 409, 425, 429):  # 409: another writer is at the same name at this moment
        return Meaning.PASSING, None
    if status in (401, 403) or code in _EXPIRED:
        return Meaning.DENIED, HINT_KEYS
    if status == 501:
        return Meaning.UNKNOWN, HINT_SINGLE
    return (Meaning.PASSING if status >= 500 else Meaning.FINAL), None


def _read_silence(kind: str, text: str) -> Answer:
    if certificate := _CERTIFICATE.search(text):
        reason = f"its certificate is refused ({certificate[1]})"
        return Answer(meaning=Meaning.FINAL, reason=reason, hint=_HINT_CA)
    if kind == "Timeout":
        return Answer(meaning=Meaning.PASSING, reason="no answer in time")
    causes = _CAUSE.findall(text)
    words = {"Connect": "no connection", "Interrupted": "the connection broke off"}.get(kind, f"no answer ({kind})")
    if '"dns error"' in text:
        words = "its host name is not known"
    reason = words + (f": {causes[-1]}" if causes else "")
    return Answer(meaning=Meaning.SILENT if kind == "Connect" else Meaning.PASSING, reason=reason)
