"""Stores by their URL: the authority on which schemes there are and how they are written.

The one idea: a repository is named by a URL everywhere, so that a path is never mistaken for something else and a new
kind of store is one more scheme here.
"""

from __future__ import annotations

import os

from pghaven.errors import NotPermitted, StoreUnreachable, UsageError
from pghaven.runtime.durable import OwnerOf, make_directories_durably
from pghaven.store.api import Store
from pghaven.store.posix import PosixStore
from pghaven.store.tree import DIRECTORY_MODE

SCHEMES = ("file",)


def open_store(url: str) -> Store:
    """The store at a URL (``file:///absolute/path``), which must exist.

    Raises UsageError for what is no such URL, StoreUnreachable, NotPermitted.
    """
    return PosixStore.open(url, _path_of(url))


def create_root(url: str, owner: OwnerOf | None = None) -> Store:
    """Make the place a URL names, and what is missing above it, and open it; one that exists is fine.

    Durable when it returns. ``owner`` is given what is newly made (as root); what exists is left as it is.
    """
    path = _path_of(url)
    try:
        make_directories_durably(path, DIRECTORY_MODE, owner)
    except PermissionError as error:
        raise NotPermitted(
            f"could not make {url}: {error.strerror}",
            hint=f'Make the directory "{path}" as root and give it to the user who runs this.',
        ) from error
    except OSError as error:
        raise StoreUnreachable(f"could not make {url}: {error.strerror}") from error
    return PosixStore.open(url, path)


def _path_of(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        absolute = os.path.abspath(url)
        raise UsageError(f'"{url}" is not the URL of a store', hint=f"A directory is written file://{absolute}")
    if scheme not in SCHEMES:
        raise UsageError(
            f'"{scheme}" is not a kind of store', hint=f"Supported: {', '.join(name + '://' for name in SCHEMES)}."
        )
    host, slash, path = rest.partition("/")
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
