"""Options of pg_dump and pg_restore that callers pass through.

The one idea: what chooses the contents is the caller's, passed on as it is; where and how a dump is written, and from
which server, is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from pghaven.errors import UsageError

_OWN_OPTIONS = ("-f", "--file", "-F", "--format", "-j", "--jobs", "-Z", "--compress", "--snapshot", "-d", "--dbname")
_OWN_OPTIONS_MORE = ("-h", "--host", "-p", "--port", "-U", "--username", "-W", "--password", "--filter")

NOT_COPY = ("--inserts", "--column-inserts", "--attribute-inserts", "--rows-per-insert")
"""With these the data of tables are statements, not rows."""

_AT_LOAD = ("-O", "--no-owner", "--no-tablespaces")


def find_load_options(options: Sequence[str]) -> tuple[str, ...]:
    """Those of pg_dump's options that it leaves to pg_restore where it writes an archive, as it always does here."""
    return tuple(option for option in options if option in _AT_LOAD)


def refuse_own_options(options: Sequence[str]) -> None:
    """Raises UsageError for an option of pg_dump that is not the caller's to give."""
    for option in options:
        name = option.partition("=")[0]
        short = name[:2] if name.startswith("-") and not name.startswith("--") else name
        if name in _OWN_OPTIONS + _OWN_OPTIONS_MORE or short in _OWN_OPTIONS + _OWN_OPTIONS_MORE:
            raise UsageError(
                f'"{option}" cannot be passed to pg_dump: how a dump is written and from where is pghaven\'s to say',
                hint="Pass what chooses the contents, such as --no-owner, --exclude-table or --schema.",
            )
