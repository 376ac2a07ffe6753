"""An object store as a store: the authority on which request does what, and when one is made again.

The one idea: an object comes into being by one request, "only if there is none", and so whole or not at all. A request
without an answer is made again, and a create that then finds the name taken reads what is there: if it is what was to
be written, it was written by the request whose answer was lost. What is large is sent in parts before (``inparts``).

Nothing is asked twice for what an answer proved (``answers``); clients are made in ``clients``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.errors import (
    Damaged,
    NotPermitted,
    ObjectExists,
    ObjectMissing,
    PghavenError,
    Refused,
    StoreUnreachable,
    UsageError,
)
from pghaven.runtime.durable import Buffer
from pghaven.runtime.interruptible import call_interruptibly
from pghaven.store.answers import Answer, Meaning, Truncated, read_answer
from pghaven.store.api import Buffers, ObjectInfo, check_name, check_prefix, is_name_part
from pghaven.store.clients import REQUEST_BYTES, Clients
from pghaven.store.inparts import LARGE_BYTES, Stage, takes_parts
from pghaven.store.settings import StoreSettings, scheme_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

Result = TypeVar("Result")
Listed = TypeVar("Listed")
Listing = tuple[int, list[Listed]]  # how many rows the store gave, and those of them that are ours

_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_PAGE = 1000  # what a store answers to one request for a list
_FIRST_PAUSE_SECONDS = 0.1
_LAST_PAUSE_SECONDS = 10.0
_NEVER_HEARD_SECONDS = 10.0  # an address that never answered is rather wrong than busy


class ObjectStore:
    """The objects below a prefix of a bucket or container. Picklable; each process makes clients of its own.

    A name may be an object and a prefix of others: here nothing stands in the way of it, and nothing notices.
    """

    def __init__(self, settings: StoreSettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings
        self.url = settings.url.rstrip("/")
        self._clock = clock
        self.place, self._prefix = _parse_place(settings.url)
        self._clients = Clients(settings, self.place)
        self._was_heard = False
        self._stage = Stage(self._ask, self._tell, self._prefix, scheme_of(self.url))
        self.on_request: Callable[[str, int], None] | None = None

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[StoreSettings]]:
        return ObjectStore, (self.settings,)

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    @property
    def has_single_writer(self) -> bool:
        return self.settings.single_writer

    def create(self, name: str, content: Buffers) -> None:
        import obstore

        # What is large comes in one piece, and stays so.
        body = memoryview(content[0]).cast("B") if len(content) == 1 else memoryview(b"".join(content))
        key = self._key(name)
        is_large = len(body) > LARGE_BYTES and takes_parts(self.settings)
        if (self.has_single_writer or is_large) and self.find(name) is not None:
            raise ObjectExists(f'"{name}" exists already in {self.url}')
        if self.has_single_writer and is_large:
            self._stage.send("create", name, key, body)
            return
        mode: Literal["create", "overwrite"] = "overwrite" if self.has_single_writer else "create"
        staged = self._stage.put(name, body) if is_large else None
        attempts = 0

        def put(client: Client) -> None:
            nonlocal attempts
            attempts += 1
            if staged is None:
                obstore.put(client, key, body, mode=mode, use_multipart=False)
            else:
                self._stage.copy(client, staged, key)

        with self._stage.removing(staged):
            try:
                self._ask("create", name, put, size_bytes=len(body))
            except ObjectExists as taken:
                if attempts == 1 or not self._holds(name, body):
                    raise taken from None

    def _holds(self, name: str, body: memoryview) -> bool:
        try:
            first, size_bytes = self._get(name, 0, REQUEST_BYTES)
            return size_bytes == len(body) and all(
                (first if offset == 0 else self.read_range(name, offset, len(part))) == part
                for offset in range(0, max(1, len(body)), REQUEST_BYTES)
                for part in (body[offset : offset + REQUEST_BYTES],)
            )
        except ObjectMissing:
            return False

    def read(self, name: str) -> bytes:
        first, size_bytes = self._get(name, 0, REQUEST_BYTES)
        if len(first) == size_bytes:
            return bytes(first)
        parts = [first]
        for offset in range(len(first), size_bytes, REQUEST_BYTES):
            parts.append(self.read_range(name, offset, min(REQUEST_BYTES, size_bytes - offset)))
        return b"".join(parts)

    def read_range(self, name: str, offset: int, length: int) -> Buffer:
        if length == 0:
            self.confirm(name)
            return b""
        found, _ = self._get(name, offset, length)
        if len(found) != length:
            raise Damaged(f'"{name}" in {self.url} ends before byte {offset + length}')
        return found

    def _get(self, name: str, offset: int, length: int) -> tuple[Buffer, int]:
        """Up to ``length`` bytes from ``offset``, fewer only where the object ends, and the object's size."""
        import obstore

        key = self._key(name)

        def get(client: Client) -> tuple[Buffer, int]:
            found = obstore.get(client, key, options={"range": (offset, offset + length)})
            size_bytes = found.meta["size"]
            content = memoryview(found.bytes())  # not copied: it may be a large part of our memory
            if len(content) != max(0, min(length, size_bytes - offset)):
                raise Truncated
            return content, size_bytes

        try:
            return self._ask("read", name, get, size_bytes=length)
        except _Beyond:
            return b"", self._get_info(name).size_bytes

    def find(self, name: str) -> ObjectInfo | None:
        try:
            return self._get_info(name)
        except ObjectMissing:
            return None

    def _get_info(self, name: str) -> ObjectInfo:
        """By a request for the first byte: the answer to HEAD has no body that could say what is missing."""
        import obstore

        key = self._key(name)

        def get_first(client: Client) -> Any:
            found = obstore.get(client, key, options={"range": (0, 1)})
            found.bytes()
            return found.meta

        try:
            meta = self._ask("find", name, get_first)
        except _Beyond:  # it is empty
            meta = self._ask("find", name, lambda client: obstore.head(client, key))
        return _info(name, meta)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._list(check_prefix(prefix))

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        import obstore

        below = self._below(prefix)

        def collect(client: Client) -> Listing[ObjectInfo]:
            found = []
            row_count = 0
            for chunk in obstore.list(client, below, chunk_size=_PAGE):
                row_count += len(chunk)
                for meta in chunk:
                    name = meta["path"].removeprefix(self._prefix)
                    if name.startswith(prefix) and all(is_name_part(part) for part in name.split("/")):
                        found.append(_info(name, meta))
            self._tell("list", max(0, row_count - 1) // _PAGE)  # the pages beyond the first
            return row_count, found

        found = _agreed(lambda: self._ask("list", prefix, collect, patient=True))
        # SeaweedFS sorts what is below a prefix before what follows it by name; for others this costs nothing.
        found.sort(key=lambda info: info.name)
        yield from found

    def list_children(self, prefix: str) -> tuple[str, ...]:
        import obstore

        below = self._below(check_prefix(prefix))
        start = len(self._prefix) + len(prefix)

        def collect(client: Client) -> Listing[str]:
            found = obstore.list_with_delimiter(client, below)
            objects = [meta["path"][start:] for meta in found["objects"]]
            prefixes = [path.rstrip("/")[start:] for path in found["common_prefixes"]]
            names = [o for o in objects if is_name_part(o)] + [f"{p}/" for p in prefixes if is_name_part(p)]
            row_count = len(objects) + len(prefixes)
            self._tell("list", max(0, row_count - 1) // _PAGE)
            return row_count, names

        return tuple(sorted(_agreed(lambda: self._ask("list", prefix, collect, patient=True))))

    def confirm(self, name: str) -> None:
        self._get_info(name)

    def delete(self, name: str) -> None:
        import obstore

        key = self._key(name)
        try:
            self._ask("delete", name, lambda client: obstore.delete(client, key))
        except ObjectMissing:
            return

    def free_bytes(self) -> int | None:
        return None

    def remove_leftovers(self, before: datetime) -> int:
        return self._stage.remove_leftovers(before)

    def require_place(self) -> None:
        """Raises StoreUnreachable with what to do when there is no such bucket or container; NotPermitted."""
        self.find("pghaven.json")

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _below(self, prefix: str) -> str | None:
        return (self._prefix + prefix).rstrip("/") or None

    def _ask(
        self, action: str, name: str, call: Callable[[Client], Result], *, size_bytes: int = 0, patient: bool = False
    ) -> Result:
        """Make a request until there is an answer that will not change, or patience ends."""
        from obstore.exceptions import BaseError

        began = self._clock.monotonic()
        pause = _FIRST_PAUSE_SECONDS
        renewed = False
        while True:
            client = self._clients.get(size_bytes, patient=patient)
            self._tell(action)
            try:
                result = call_interruptibly(lambda client=client: call(client))  # type: ignore[misc]
            except (BaseError, FileNotFoundError, Truncated) as error:
                answer = read_answer(error)
            else:
                self._was_heard = True
                return result
            if answer.meaning is not Meaning.SILENT:
                self._was_heard = True
            if answer.meaning is Meaning.BEYOND:
                raise _Beyond from None
            if answer.meaning is Meaning.DENIED and not renewed:
                renewed = True
                if self._clients.renew():
                    continue
            pause_now = pause * random.uniform(0.5, 1.0)  # noqa: S311  spreads requests; no secret
            if not self._may_pass(answer, self._clock.monotonic() - began + pause_now):
                raise self._translated(answer, action, name) from None
            self._clock.sleep(pause_now)
            pause = min(pause * 2, _LAST_PAUSE_SECONDS)

    def _tell(self, action: str, count: int = 1) -> None:
        if self.on_request is not None and count:
            self.on_request(action, count)

    def _may_pass(self, answer: Answer, elapsed_seconds: float) -> bool:
        if answer.meaning not in (Meaning.PASSING, Meaning.SILENT):
            return False
        patience = self.settings.retry_timeout_seconds
        return elapsed_seconds < (patience if self._was_heard else min(patience, _NEVER_HEARD_SECONDS))

    def _translated(self, answer: Answer, action: str, name: str) -> PghavenError:
        """The only place where the client's errors become ours."""
        what = f'"{name}" in {self.url}' if name else self.url
        if answer.meaning is Meaning.ABSENT:
            return ObjectMissing(f'"{name}" does not exist in {self.url}')
        if answer.meaning is Meaning.EXISTS:
            return ObjectExists(f'"{name}" exists already in {self.url}')
        if answer.meaning is Meaning.PLACE_ABSENT:
            kind = "container" if scheme_of(self.url) == "az" else "bucket"
            return StoreUnreachable(
                f'could not {action} {what}: there is no {kind} "{self.place}" ({answer.reason})',
                hint="Make it with the store's own tools (pghaven makes none), or correct the URL of the repository.",
            )
        message = f"could not {action} {what}: {answer.reason}"
        if answer.meaning is Meaning.DENIED:
            return NotPermitted(message, hint=answer.hint)
        if answer.meaning is Meaning.UNKNOWN:
            return Refused(message, hint=answer.hint)
        return StoreUnreachable(message, hint=answer.hint)


class _Beyond(Exception):
    """A range begins behind the end of its object; it does not leave this module."""


def _agreed(collect: Callable[[], Listing[Listed]]) -> list[Listed]:
    """A listing, asked for until two agree where it may have been cut short.

    The client takes an error in the colours of success (status 200) for an answer with nothing in it, and so for
    the end: the listing then ends where a page does, or is empty. Pages count what is not ours too.
    """
    listing = collect()
    while listing[0] % _PAGE == 0 and (again := collect()) != listing:
        listing = again
    return listing[1]


def _parse_place(url: str) -> tuple[str, str]:
    """The bucket of a URL, and the prefix of all keys: empty, or ending with "/". Raises UsageError."""
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    if not _PLACE.fullmatch(place):
        kind = "container" if scheme == "az" else "bucket"
        raise UsageError(
            f'"{url}" names no {kind}', hint=f"It is written {scheme}://{kind} or {scheme}://{kind}/prefix."
        )
    path = path.strip("/")
    if path and not all(is_name_part(part) for part in path.split("/")):
        raise UsageError(
            f'the prefix "{path}" of "{url}" is not usable',
            hint='It is made of letters, digits, ".", "_", "-" and "/".',
        )
    return place, f"{path}/" if path else ""


def _info(name: str, meta: Any) -> ObjectInfo:
    return ObjectInfo(name=name, size_bytes=meta["size"], modified=meta["last_modified"].astimezone(UTC))
