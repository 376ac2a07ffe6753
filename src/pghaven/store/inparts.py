"""Large objects on their way into an object store: in parts, and still whole or not at all, in nobody else's place.

The one idea: no client sends parts with the condition that there is no such object. So they are put together under a
name of their own, and the store itself copies that to the object's name, if this is free. A part that fails is sent
again and not the whole; what a writer who died has left lies under names that no listing shows, and is removed by age.

That a store copies to free names only is tried, by the first large object of a process, with a few bytes. That of two
copies at one moment it refuses one cannot be tried: its maker must promise it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pghaven.errors import NotPermitted, ObjectExists, ObjectMissing, PghavenError, Refused, StoreUnreachable
from pghaven.store.clients import REQUEST_BYTES
from pghaven.store.settings import StoreSettings, scheme_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

LARGE_BYTES = 64 << 20
"""What is larger goes in parts: packs do not, large WAL segments do."""

AT_ONCE = 4

# No object's name begins with a dot, so no listing shows what is below it.
_STAGED = ".parts/"

Ask = Callable[..., Any]
"""``ObjectStore._ask``: an action, a name for people, and a call that is given a client."""


def takes_parts(settings: StoreSettings) -> bool:
    """Whether large objects go in parts: the option, else where the store is one whose maker promises what it takes.

    Azure's copies may be finished after they were answered; there one request takes 5000 MiB.
    """
    scheme = scheme_of(settings.url)
    if scheme == "az" or settings.multipart is not None:
        return scheme != "az" and bool(settings.multipart)
    if scheme == "s3":
        from pghaven.store.s3 import find_endpoint

        return find_endpoint(settings) is None
    return settings.endpoint is None


class Stage:
    """Where the large objects of one store are put together. ``prefix`` is that of all its keys."""

    def __init__(self, ask: Ask, tell: Callable[[str, int], None], prefix: str, scheme: str | None) -> None:
        self._ask = ask
        self._tell = tell
        self._below = prefix + _STAGED
        # S3 copies to a free name as a part, between a beginning and an end.
        self._copy_requests = 3 if scheme == "s3" else 1
        self._copies_to_free_names: bool | None = None

    def put(self, name: str, body: memoryview) -> str | None:
        """The key under which this lies now, ready to be copied; None where the store cannot be trusted to copy.

        Raises StoreUnreachable, NotPermitted.
        """
        if self._copies_to_free_names is None:
            self._copies_to_free_names = self._try_copying()
        if not self._copies_to_free_names:
            return None
        key = self._new_key()
        try:
            self.send("create", name, key, body)
        except StoreUnreachable:  # it may have come whole, and the answer been lost
            if self._find_size(key) != len(body):
                raise
        return key

    def send(self, action: str, name: str, key: str, body: memoryview) -> None:
        """Send all parts to a key, in place of what is there. Memory: AT_ONCE + 1 parts."""
        import obstore

        def put(client: Client) -> None:
            obstore.put(client, key, body, use_multipart=True, chunk_size=REQUEST_BYTES, max_concurrency=AT_ONCE)
            self._tell(action, 1 + -(-len(body) // REQUEST_BYTES))  # beside the one that began it

        self._ask(action, name, put, size_bytes=AT_ONCE * REQUEST_BYTES, patient=True)

    def copy(self, client: Client, key: str, to: str) -> None:
        """One attempt. Raises what the client raises, also where the name is taken."""
        import obstore

        self._tell("create", self._copy_requests - 1)
        obstore.copy(client, key, to, overwrite=False)

    @contextmanager
    def removing(self, key: str | None) -> Iterator[None]:
        """At the end of the block what lies under a key goes; not on an interrupt, which waits for no request."""
        try:
            yield
        except PghavenError:
            self._remove(key)
            raise
        self._remove(key)

    def _remove(self, key: str | None) -> None:
        """What cannot be removed stays until ``remove_leftovers`` may."""
        import obstore

        if key is None:
            return
        with suppress(PghavenError):
            self._ask("delete", key, lambda client: obstore.delete(client, key))

    def remove_leftovers(self, before: datetime) -> int:
        """As ``KeepsLeftovers``. What never came together the store keeps for itself, and its own rules remove."""
        import obstore

        def collect(client: Client) -> list[Any]:
            return [meta for chunk in obstore.list(client, self._below.rstrip("/")) for meta in chunk]

        freed = 0
        for meta in self._ask("list", _STAGED, collect, patient=True):
            if meta["path"].startswith(self._below) and meta["last_modified"].astimezone(UTC) < before:
                self._remove(meta["path"])
                freed += meta["size"]
        return freed

    def _try_copying(self) -> bool:
        """Copy something onto itself, which must be refused since the name is taken."""
        import obstore

        key = self._new_key()
        try:
            with self.removing(key):
                self._ask("create", key, lambda client: obstore.put(client, key, b"tried", use_multipart=False))
                self._ask("create", key, lambda client: self.copy(client, key, key))
        except ObjectExists:
            return True
        except (Refused, NotPermitted, ObjectMissing, StoreUnreachable):
            pass  # one request is tried next, which tells what is wrong where it is not the copying
        return False

    def _find_size(self, key: str) -> int | None:
        import obstore

        with suppress(ObjectMissing):
            return int(self._ask("find", key, lambda client: obstore.head(client, key))["size"])
        return None

    def _new_key(self) -> str:
        return self._below + secrets.token_hex(16)
