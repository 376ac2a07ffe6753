"""Stores by their URL: the authority on which schemes there are and how they are written.

The one idea: a repository is named by a URL everywhere, so that a path is never mistaken for something else and a new
kind of store is one more scheme here. A kind is imported when a URL asks for it, and not before: PostgreSQL starts the
program for every WAL file.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pghaven.errors import NotPermitted, StoreUnreachable, UsageError
from pghaven.runtime.durable import OwnerOf, make_directories_durably
from pghaven.store.api import Store
from pghaven.store.settings import SCHEMES, StoreSettings, refuse_password

if TYPE_CHECKING:
    from pghaven.store.objects import ObjectStore


_OBJECTS = ("s3", "gs", "az")


def open_store(place: StoreSettings | str) -> Store:
    """The store at a place, which must exist; a URL alone is a place with nothing to be said about it.

    ``file:///absolute/path`` is a directory, ``sftp://user@host:port/path`` one behind an SFTP server;
    ``s3://bucket/prefix``, ``gs://bucket/prefix`` and ``az://container/prefix`` are in object stores, which are first
    asked when something is.
    Raises UsageError for what is no such URL, StoreUnreachable, NotPermitted, Refused for a server that will not do.
    """
    settings = _settings_of(place)
    scheme = require_scheme(settings.url)
    if scheme in _OBJECTS:
        return _open_objects(settings)
    if scheme == "sftp":
        from pghaven.store.sftp import SftpStore
        from pghaven.store.sftpaddress import parse_sftp_address

        return SftpStore.open(parse_sftp_address(settings))
    return _open_directory(settings.url, _path_of(settings.url))


def create_root(place: StoreSettings | str, owner: OwnerOf | None = None) -> Store:
    """Make the place, and what is missing above it, and open it; one that exists is fine.

    A bucket is not made, but must exist; a prefix in it needs no making. Durable when it returns. ``owner`` is given
    what is newly made (as root); what exists is left as it is. Behind a server all belongs to the user who logs in.
    """
    settings = _settings_of(place)
    scheme = require_scheme(settings.url)
    if scheme in _OBJECTS:
        store = _open_objects(settings)
        store.require_place()
        return store
    if scheme == "sftp":
        from pghaven.store.sftp import SftpStore
        from pghaven.store.sftpaddress import parse_sftp_address

        return SftpStore.create_root(parse_sftp_address(settings))
    path = _path_of(settings.url)
    _make_directory(settings.url, path, owner)
    return _open_directory(settings.url, path)


def require_scheme(url: str) -> str:
    """What kind of store a URL names. Raises UsageError for what is no URL, for an unknown kind, and for a password."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        absolute = os.path.abspath(url)
        raise UsageError(f'"{url}" is not the URL of a store', hint=f"A directory is written file://{absolute}")
    refuse_password(url)
    if scheme not in SCHEMES:
        raise UsageError(
            f'"{scheme}" is not a kind of store', hint=f"Supported: {', '.join(name + '://' for name in SCHEMES)}."
        )
    return scheme


def _settings_of(place: StoreSettings | str) -> StoreSettings:
    return StoreSettings(url=place) if isinstance(place, str) else place


def _open_objects(settings: StoreSettings) -> ObjectStore:
    from pghaven.store.objects import ObjectStore

    return ObjectStore(settings)


def _open_directory(url: str, path: str) -> Store:
    from pghaven.store.posix import PosixStore

    return PosixStore.open(url, path)


def _make_directory(url: str, path: str, owner: OwnerOf | None) -> None:
    from pghaven.store.tree import DIRECTORY_MODE

    try:
        make_directories_durably(path, DIRECTORY_MODE, owner)
    except PermissionError as error:
        raise NotPermitted(
            f"could not make {url}: {error.strerror}",
            hint=f'Make the directory "{path}" as root and give it to the user who runs this.',
        ) from error
    except OSError as error:
        raise StoreUnreachable(f"could not make {url}: {error.strerror}") from error


def _path_of(url: str) -> str:
    host, slash, path = url.partition("://")[2].partition("/")
    if not slash or host not in ("", "localhost"):
        raise UsageError(f'"{url}" does not name a directory of this machine', hint="Write file:///absolute/path.")
    if "?" in path or "#" in path:
        raise UsageError(f'"{url}" has a query or fragment', hint='Write "?" as %3F and "#" as %23.')
    if "%" in path:
        from urllib.parse import unquote  # here, because it is rarely needed on the path of every WAL segment

        path = unquote(path)
    if "\0" in path:
        raise UsageError(f'"{url}" holds a null byte')
    return os.path.normpath("/" + path)
