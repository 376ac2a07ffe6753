"""What a host remembers of a repository outside of it, so that an older state of it does not pass for the present one.

The one idea: numbers that only go up inside the repository (key sets, turns of collecting, horizons) are kept on each
host that sees them, with the newest backup. Whoever puts an earlier state in place (a snapshot that was restored, a
store that lies) cannot make a host forget; only a person can, who says that the older state is the one to go on from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pghaven.clock import SYSTEM_CLOCK
from pghaven.errors import Refused
from pghaven.light import dataclass, field, replace
from pghaven.runtime.durable import OwnerOf, make_directories_durably, write_durably

if TYPE_CHECKING:
    from pghaven.repository.keyset import KeySet

OLDER_HINT = (
    "If it was brought back from an earlier state and is to be gone on from as it is, say so: "
    "pghaven repo accept NAME. Otherwise find out who changed it, before anything is removed."
)

_ATTEMPTS = 500
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCluster:
    """``turn`` is the highest number of a collection, ``horizons`` the positions by system identifier and timeline.

    ``backup`` is the newest one that was complete when every collection up to ``backup_turn`` was over, so that only a
    later one can have removed it.
    """

    turn: int = 0
    backup: str | None = None
    backup_turn: int = 0
    horizons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of one repository: its newest key set (0: none), and its clusters by their names."""

    key_set: int = 0
    key_set_hash: str = ""
    clusters: Mapping[str, SeenCluster] = field(default_factory=dict)


NOTHING = Seen()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """The memory of one host, a file for each repository below ``directory``.

    The files belong to the owner of ``like`` (the data directory), so that the server's user and root share them.
    """

    directory: str
    like: str | None = None

    def load(self, repository_id: str) -> Seen:
        """What was seen; nothing where there is no memory, or none that can be read."""
        try:
            with open(self._path(repository_id)) as file:
                body = json.load(file)
            clusters = {name: SeenCluster(**one) for name, one in body.pop("clusters").items()}
            return Seen(clusters=clusters, **body)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return NOTHING

    def keep(self, repository_id: str, change: Callable[[Seen], Seen]) -> str | None:
        """Remember what ``change`` makes of what was seen, which other processes add to as well; why it could not be
        kept, None when it was."""
        from dataclasses import asdict

        seen = self.load(repository_id)
        if change(seen) == seen:
            return None
        path = self._path(repository_id)
        directory = os.path.dirname(path)
        try:
            owner = None if self.like is None else OwnerOf.path(self.like)
            make_directories_durably(directory, 0o700, owner)
            with _alone_in(directory):
                seen = change(self.load(repository_id))
                write_durably(path, json.dumps(asdict(seen), indent=1, sort_keys=True).encode(), 0o600, owner)
        except OSError as error:
            return f'what was seen of the repository cannot be kept in "{directory}": {error.strerror}'
        return None

    def _path(self, repository_id: str) -> str:
        return os.path.join(self.directory, "seen", f"{repository_id}.json")


@contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Whoever else of us changes what is there waits, and we for them; but for nobody who was stopped at it."""
    import fcntl

    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                SYSTEM_CLOCK.sleep(_PAUSE_SECONDS)
            except OSError:
                break  # a file system without locks
        yield
    finally:
        os.close(lock)


def find_state_directory(data_directory: str) -> str:
    """Where a host keeps what it could do without: below the home directory of who runs the server."""
    import pwd

    try:
        home = pwd.getpwuid(os.stat(data_directory).st_uid).pw_dir
    except (OSError, KeyError):
        home = os.path.expanduser("~")
    return os.path.join(home, ".local", "state", "pghaven")


# -- key sets -----------------------------------------------------------------------------------------------------


def check_key_set(memory: HostMemory, repository_id: str, key_set: KeySet, url: str) -> None:
    """Compare an opened key set with what this host has seen, and remember it. Raises Refused for an older one.

    An older set may have slots that were removed since, and no data key that was made since: what is written under it
    could be read by whom it should not.
    """
    seen = memory.load(repository_id)
    if older := compare_key_set(seen, key_set):
        raise Refused(f"the keys of the repository at {url} {older}: it is in an older state", hint=OLDER_HINT)
    number, hash_ = key_set.number, hash_key_set(key_set)
    memory.keep(
        repository_id, lambda one: one if one.key_set >= number else replace(one, key_set=number, key_set_hash=hash_)
    )


def compare_key_set(seen: Seen, key_set: KeySet) -> str | None:
    """In what a key set is older than the one that was seen, in words that go on after "keys"; None if it is not."""
    if key_set.number > seen.key_set:
        return None
    if key_set.number < seen.key_set:
        return f"are set {key_set.number}, but this host has seen set {seen.key_set}"
    if hash_key_set(key_set) != seen.key_set_hash:
        return f"are not the set {key_set.number} that this host has seen"
    return None


def hash_key_set(key_set: KeySet) -> str:
    from blake3 import blake3

    return blake3(json.dumps(key_set.body, sort_keys=True).encode()).hexdigest()
