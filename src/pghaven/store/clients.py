"""Clients of object stores: the authority on how each is made, how long it may take, and when it is made again.

The one idea: a client belongs to one process, and is made at its first request from settings that hold no secret. So
a store can be pickled into worker processes, and what each of them reads from files and environment is never stored.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pghaven.errors import NotPermitted, UsageError
from pghaven.store.answers import HINT_KEYS
from pghaven.store.settings import StoreSettings, scheme_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

REQUEST_BYTES = 16 << 20
"""What one request moves at most, but for a create of a larger object."""

_SOURCE = re.compile(r"source: (\w+)")
_CONNECT_SECONDS = 10
_RETRIES = 8

Options = dict[str, Any]
"""Keyword arguments of every client: ``client_options`` and ``retry_config``."""

_used_by: list[int] = []  # the process whose threads serve all clients; they do not survive a fork


class Clients:
    """The clients of one store in this process, one for each limit of time. Threads may share them."""

    def __init__(self, settings: StoreSettings, place: str) -> None:
        self._settings = settings
        self._place = place  # the bucket or container
        self._lock = threading.Lock()
        self._made: dict[tuple[int, int], Client] = {}
        self._keys: object = None

    def get(self, size_bytes: int = 0, *, patient: bool = False) -> Client:
        """A client whose requests have the time to move this many bytes; a ``patient`` one makes them again by itself.

        Raises UsageError, NotPermitted for what the settings name and cannot be read.
        """
        _require_own_process()
        share = max(1, round(size_bytes / REQUEST_BYTES))
        which = (1 << (share - 1).bit_length(), _RETRIES if patient else 0)
        with self._lock:
            if which not in self._made:
                self._made[which] = self._make(*which)
            return self._made[which]

    def renew(self) -> bool:
        """Read the keys again; whether they are others than before. Raises as ``get``."""
        with self._lock:
            before = self._keys
            self._made.clear()
            self._made[1, 0] = self._make(1, 0)
            return self._keys is not None and self._keys != before

    def _make(self, share: int, retries: int) -> Client:
        settings = self._settings
        client_options: Options = {
            "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, settings.request_timeout_seconds)),
            "timeout": timedelta(seconds=settings.request_timeout_seconds * share),
            "user_agent": "pghaven",
        }
        if settings.ca_file is not None:
            client_options["root_certificate"] = read_setting_file(settings.ca_file, "ca_file")
        retry_config = {
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=settings.retry_timeout_seconds),
        }
        from obstore.exceptions import BaseError

        connect = _find_kind(settings.url)
        try:
            client, self._keys = connect(
                settings, self._place, {"client_options": client_options, "retry_config": retry_config}
            )
        except (BaseError, ValueError, OSError) as error:  # the client's own words may repeat what it was given
            found = _SOURCE.search(str(error))
            reason = found[1] if found else type(error).__name__
            raise UsageError(f"a client for {settings.url} cannot be made: {reason}", hint=HINT_KEYS) from None
        return client


Connect = Callable[[StoreSettings, str, Options], "tuple[Client, object]"]
"""Makes a client of a bucket; beside it something that changes when the keys it was given change, or None."""


def _find_kind(url: str) -> Connect:
    if scheme_of(url) == "gs":
        from pghaven.store.gs import connect

        return connect
    if scheme_of(url) == "az":
        from pghaven.store.az import connect as connect_az

        return connect_az
    from pghaven.store.s3 import connect as connect_s3

    return connect_s3


def read_setting_file(path: str, option: str) -> bytes:
    """The content of a file that an option names. Raises UsageError, NotPermitted."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except PermissionError as error:
        raise NotPermitted(
            f"could not read {path}: permission denied", hint=f"It is the {option} of a repository."
        ) from error
    except OSError as error:
        raise UsageError(
            f"could not read {path}: {error.strerror}", hint=f"It is the {option} of a repository."
        ) from error


def _require_own_process() -> None:
    """A forked child would wait for ever for threads that only its parent has."""
    if not _used_by:
        _used_by.append(os.getpid())
    if _used_by[0] != os.getpid():
        raise RuntimeError("an object store was used before this process was forked: start workers afresh instead")
