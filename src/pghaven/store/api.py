"""What a store promises: the authority on object names and on what each call means.

The one idea: an object is written once, whole or not at all, and never changed. From put-if-absent (``create``)
everything above gets its crash safety, so two things must never be blurred: *absent* is a proof given by a store that
answered (ObjectMissing, None), and anything else that goes wrong is StoreUnreachable or NotPermitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from pghaven.errors import Refused
from pghaven.light import dataclass, pattern
from pghaven.runtime.durable import Buffer

Buffers = Sequence[Buffer]
"""One object's content, in order. Buffers may be empty, of any size and as many as memory holds."""

MAX_PART_BYTES = 200
MAX_NAME_BYTES = 900

# No part begins with a dot: such names are a directory store's own (temporary files) or the file system's (.nfs…).
_PART = rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{MAX_PART_BYTES - 1}}}"
_NAME = pattern(rf"{_PART}(?:/{_PART})*")
_PART_ALONE = pattern(_PART)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a listing tells of an object. ``modified`` (UTC) is the store's clock: information, never authority."""

    name: str
    size_bytes: int
    modified: datetime


class Store(Protocol):
    """Named bytes somewhere. Calls block; one store may be used by many threads and processes at once.

    Names are parts joined by "/" (see ``check_name``). A name is an object or a prefix of others, never both: whoever
    chooses names keeps to that. A directory cannot hold both and refuses; an object store need not notice.
    Every call may raise StoreUnreachable (no answer, a failing or full disk), NotPermitted, and Refused for a name
    that is not allowed. A store that can be reached from other processes can be pickled into them.
    """

    @property
    def url(self) -> str:
        """Where this is, for people; holds no secrets."""

    def create(self, name: str, content: Buffers) -> None:
        """Put-if-absent: durable when it returns, and then exactly this content is under the name.

        Raises ObjectExists if the name is taken, whatever it holds: the caller reads it, compares, and may call
        ``confirm``. After any other failure the object is there whole or not at all, and not known which.
        """

    def read(self, name: str) -> bytes:
        """The whole content. Raises ObjectMissing: proven absent."""

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        """Exactly ``length`` bytes from ``offset``. Raises ObjectMissing, and Damaged if the object ends before."""

    def find(self, name: str) -> ObjectInfo | None:
        """The object's size and time, or None: proven absent."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a prefix ("a/b/", or "" for all) at any depth, sorted by name, lazily.

        Objects created or deleted meanwhile may be listed or not; all others are.
        """

    def list_children(self, prefix: str) -> tuple[str, ...]:
        """What is directly below a prefix, relative to it and sorted: objects as "x", deeper prefixes as "x/".

        A prefix that lost its last object may be listed for a while, and after a crash for good.
        """

    def confirm(self, name: str) -> None:
        """Return only when the existing object is durable, whoever wrote it. Raises ObjectMissing."""

    def delete(self, name: str) -> None:
        """Gone for every reader when it returns; one that was absent already is fine.

        Not durable: a power loss may bring the object back, whole. Put-if-absent under a retire record decides what
        counts, not the absence of an object.
        """

    def free_bytes(self) -> int | None:
        """Room for new objects, or None where there is no such figure."""


@runtime_checkable
class KeepsLeftovers(Protocol):
    """A store in which a writer who dies may leave what no listing shows."""

    def remove_leftovers(self, before: datetime) -> int:
        """Remove what was left before this moment; returns the bytes set free."""


@runtime_checkable
class DependsOnServer(Protocol):
    """A store whose promises depend on who runs it, so that they are tried (``probe``) and not believed."""

    @property
    def has_single_writer(self) -> bool:
        """Whether somebody said that no two writers are ever at it at once; then a create looks, and then writes."""


@runtime_checkable
class TellsRequests(Protocol):
    """A store that makes requests of its own for a call, as again after a lost answer, and tells of each.

    ``on_request`` is called with what was asked ("create", "read", "find", "list", "delete") and how often.
    """

    on_request: Callable[[str, int], None] | None


def check_name(name: str) -> str:
    """The name itself if it can name an object. Raises Refused.

    Parts of 1 to 200 ASCII letters, digits, dots, hyphens and underscores that do not begin with a dot, joined by
    "/", 900 bytes in all: what every file system and object store takes as it is.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES:
        raise Refused(
            f'"{name}" cannot name an object: names are parts of 1 to {MAX_PART_BYTES} letters, digits, ".", "_" '
            'and "-", not beginning with ".", joined by "/"'
        )
    return name


def check_prefix(prefix: str) -> str:
    """The prefix itself if it is "" or a name followed by "/". Raises Refused."""
    if prefix:
        if not prefix.endswith("/"):
            raise Refused(f'"{prefix}" cannot be a prefix: it must be empty or end with "/"')
        check_name(prefix[:-1])
    return prefix


def is_name_part(text: str) -> bool:
    """Whether this can be one part of a name. What is not is no object of ours and is passed over in listings."""
    return _PART_ALONE.fullmatch(text) is not None


def ancestors_of(name: str) -> Iterator[str]:
    """The prefixes above a name, without their last "/", outermost first: "a/b/c" gives "a", "a/b"."""
    end = name.find("/")
    while end >= 0:
        yield name[:end]
        end = name.find("/", end + 1)
