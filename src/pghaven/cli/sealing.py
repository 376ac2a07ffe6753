"""Whether a new repository is sealed, and with what.

The one idea: where a key is configured there is a key to be made; where none is, what lies in other people's hands is
not made in the open unless somebody says so.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pghaven.errors import UsageError
from pghaven.events import Listener
from pghaven.repository.keysource import PASSPHRASE_VARIABLE

if TYPE_CHECKING:
    from pghaven.repository.place import RepositoryPlace
    from pghaven.repository.repository import Sealing
    from pghaven.runtime.durable import OwnerOf
    from pghaven.setup.register import MakeSealing
    from pghaven.setup.sealing import RecoveryOrder


def wants_sealing(url: str, encryption: bool | None) -> bool:
    """Whether a new repository at this URL is to be sealed: in other people's hands it is, and where a passphrase is in
    the environment, unless told not to."""
    if encryption is not None:
        return encryption
    return not url.startswith("file:") or PASSPHRASE_VARIABLE in os.environ


def choose_sealing(
    config_path: str, encryption: bool | None, recovery: RecoveryOrder, listener: Listener
) -> MakeSealing:
    """What a new repository at a place is sealed with; None for one in the open.

    Raises UsageError for one that should be sealed and has no key in the configuration, or the other way round.
    """

    def make(place: RepositoryPlace, owner: OwnerOf | None) -> Sealing | None:
        from pghaven.setup.sealing import make_sealing

        if place.key.is_known and encryption is not False:
            return make_sealing(place, recovery, owner, listener)
        if place.key.is_given:
            raise UsageError(
                "--no-encryption contradicts the configuration, which names a key for the repository",
                hint=f"Take the key out of [repository.{place.name}], or leave the option out.",
            )
        if place.key.is_known:
            raise UsageError(
                f"--no-encryption contradicts ${PASSPHRASE_VARIABLE}, which is taken for the repository's passphrase",
                hint=f"If it is another one's, write encryption = false into [repository.{place.name}].",
            )
        if wants_sealing(place.url, place.key.encryption if encryption is None else encryption):
            path = os.path.join(os.path.dirname(config_path), f"{place.name}.key")
            raise UsageError(
                f"the repository at {place.url} would be sealed, but the configuration does not say where its key is",
                hint=f'Add to [repository.{place.name}]: key_file = "{path}". It will be made. '
                "For a repository in the open: pghaven init with --no-encryption.",
            )
        return None

    return make
