"""What Patroni appends to the command of a hook, and the environment that it starts it in.

The one idea: keys are taken by name and unknown ones passed over, since Patroni passes on whatever stands in its
configuration (``--no_leader=1``, ``--keep_data=True``), and a later version may pass more. Of the environment nothing
that libpq reads is kept: one variable overrides what the configuration says, and it did (an inherited ``PGPASSWORD``).

Sources: ``bootstrap.py`` (``_create_replica``, ``_custom_bootstrap``) and ``callback_executor.py`` of Patroni 4.1.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

from pghaven.errors import UsageError

_PRIMARY_ROLES = frozenset({"primary", "master", "promoted", "standby_leader"})
_LIBPQ = "PG"
_OURS = "PGHAVEN_"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleChange:
    """A callback's three words."""

    action: str
    role: str
    scope: str

    @property
    def to_primary(self) -> bool:
        return self.action == "on_role_change" and self.role in _PRIMARY_ROLES - {"standby_leader"}


def parse_keys(words: Sequence[str]) -> dict[str, str]:
    """``--key=value`` words by key. Raises UsageError for anything else."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key.startswith("--") or not equals:
            raise UsageError(
                f'"{word}" is not a key that Patroni appends, such as --datadir=DIR',
                hint="This command is called by Patroni: pghaven ha plan shows how it is written there.",
            )
        found[key[2:].replace("-", "_")] = value
    return found


def get_data_directory(keys: dict[str, str], configured: str) -> str:
    """The directory to fill. Raises UsageError when it is not the configured one's: a mixed-up file must not have
    another cluster's directory made over."""
    import os

    given = keys.get("datadir", configured)
    if not given:
        raise UsageError("--datadir is empty")
    if os.path.realpath(given) != os.path.realpath(configured):
        raise UsageError(
            f'Patroni asks for "{given}", but the configuration says "{configured}"',
            hint="Correct data_directory in the configuration, or data_dir in Patroni's.",
        )
    return os.path.abspath(given)


def parse_role_change(words: Sequence[str]) -> RoleChange:
    """Raises UsageError."""
    if len(words) != 3:
        raise UsageError(
            "a callback of Patroni has three words, ACTION ROLE SCOPE; there are "
            + (" ".join(f'"{word}"' for word in words) or "none")
        )
    return RoleChange(action=words[0], role=words[1], scope=words[2])


def clean_environment(environment: MutableMapping[str, str]) -> tuple[str, ...]:
    """Take out what libpq would read, and give the names."""
    names = tuple(sorted(name for name in environment if name.startswith(_LIBPQ) and not name.startswith(_OURS)))
    for name in names:
        del environment[name]
    return names
