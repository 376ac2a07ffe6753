"""Configuration that lies outside the data directory, as Debian keeps it in /etc; and what is told of the other.

The one idea: it is small, no restore can do without it, and a copy of the data directory does not hold it; so it goes
into the manifest itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pghaven.backup.listing import Listing, read_whole
from pghaven.errors import NotPermitted, StoreUnreachable
from pghaven.events import Listener, Notice
from pghaven.repository.manifest import ConfigFile
from pghaven.server.probe import ServerFacts

_CONFIG_BYTES_MAX = 16 << 20


def read_config_files(facts: ServerFacts, listener: Listener) -> tuple[ConfigFile, ...]:
    """The files the server reads from elsewhere; one that cannot be read is told, and left out."""
    found = []
    for file in facts.config_files:
        if not file.is_outside:
            continue
        try:
            mode = os.stat(file.path).st_mode & 0o777
            content = read_whole(file.path, _CONFIG_BYTES_MAX)
        except (OSError, NotPermitted, StoreUnreachable) as error:
            text = f'configuration file "{file.path}" is not in this backup: {error}'
            listener(Notice(level="warning", code="config_file", text=text))
            continue
        found.append(ConfigFile(role=file.role, path=file.path, mode=mode, content=content))
    return tuple(found)


def tell_unsettled(numbers: Iterable[int], listing: Listing, listener: Listener) -> None:
    """Name the configuration that did not come to rest while it was read."""
    for number in numbers:
        path = listing.relative_path(number)
        text = f'"{path}" was being changed all the while it was read, and may be half written in this backup'
        hint = "Look at it after a restore before the server is started, or take another backup."
        listener(Notice(level="warning", code="unsettled", text=text, hint=hint))
