"""The maps of this host's own backups, kept beside the repository by a host that only writes.

The one idea: such a host cannot read the manifest that it has stored, so it keeps a copy. The copy counts only for the
very manifest that the repository's decision names, and is checked like one from there; without it, or when it is
another's, the next backup reads everything and nothing is lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress

from pghaven.errors import Damaged, StoreUnreachable
from pghaven.events import Listener, Notice
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.container import Container, Kind
from pghaven.repository.manifest import Manifest, parse_manifest, render_manifest
from pghaven.repository.memory import find_state_directory
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.runtime.durable import OwnerOf, make_directories_durably, write_durably

_SUFFIX = ".map"
_HASH_BYTES = 32
_LABEL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def find_maps(catalog: BackupCatalog, directory: str | None, data_directory: str) -> OwnMaps | None:
    """Where this host keeps its maps; None where it can read those of the repository.

    ``directory`` None means ``find_state_directory``.
    """
    repository = catalog.repository
    if repository.keyring.can_read:
        return None
    return OwnMaps(repository, catalog.cluster, directory or find_state_directory(data_directory), data_directory)


def keep_map(maps: OwnMaps | None, catalog: BackupCatalog, manifest: Manifest, listener: Listener) -> None:
    """After the commit: keep what the next backup builds on. Failing is told; the backup is complete all the same."""
    if maps is None:
        return
    label = manifest.facts.label
    try:
        maps.save(label, manifest, str(catalog.read_entry(label).manifest_hash))
    except StoreUnreachable as error:
        listener(Notice(level="warning", code="map_not_kept", text=error.message, hint=error.hint))


class OwnMaps:
    """Copies of manifests of one cluster in one repository, owned by who owns ``data_directory``."""

    def __init__(self, repository: Repository, cluster: str, directory: str, data_directory: str) -> None:
        self._repository = repository
        self._cluster = cluster
        self._data_directory = data_directory
        self.directory = os.path.join(directory, "maps", repository.id, cluster)

    def list_labels(self) -> frozenset[str]:
        """The backups there is a copy for."""
        try:
            names = os.listdir(self.directory)
        except OSError:
            return frozenset()
        labels = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return frozenset(label for label in labels if _LABEL.fullmatch(label))

    def save(self, label: str, manifest: Manifest, decided_hash: str, *, keep: Collection[str] = ()) -> None:
        """Keep a copy; those of backups that are not in ``keep`` go. Raises StoreUnreachable when it could not be kept.

        ``decided_hash`` is the hash that the decision gives to the manifest in the repository.
        """
        context = self._context(label)
        content = render_manifest(manifest, context=context, keyring=OPEN_KEYRING).content
        try:
            owner = OwnerOf.path(self._data_directory)
            make_directories_durably(self.directory, 0o700, owner)
            write_durably(self._path(label), [bytes.fromhex(decided_hash), *content], 0o600, owner)
            for other in self.list_labels() - {label, *keep}:
                with suppress(FileNotFoundError):
                    os.unlink(self._path(other))
        except OSError as error:
            raise StoreUnreachable(
                f'could not keep a copy of the map of backup "{label}" in "{self.directory}": {error.strerror}',
                hint='The next backup will read everything. "state_directory" can name another place.',
            ) from error

    def load(self, label: str, decided_hash: str) -> Manifest:
        """The copy of a backup's manifest. Raises Damaged when there is none that counts."""
        try:
            with open(self._path(label), "rb") as file:
                data = file.read()
        except OSError as error:
            raise Damaged(f"its map is not kept on this host ({error.strerror})") from error
        if data[:_HASH_BYTES].hex() != decided_hash:
            raise Damaged("its map was written anew since this host kept it")
        container = Container(
            memoryview(data)[_HASH_BYTES:], kind=Kind.MANIFEST, context=self._context(label), keyring=OPEN_KEYRING
        )
        manifest = parse_manifest(container)
        if (manifest.facts.cluster, manifest.facts.label) != (self._cluster, label):
            raise Damaged("the map that is kept on this host is another backup's")
        return manifest

    def _path(self, label: str) -> str:
        return os.path.join(self.directory, label + _SUFFIX)

    def _context(self, label: str) -> bytes:
        return self._repository.context(f"maps/{self._cluster}/{label}").encode()
