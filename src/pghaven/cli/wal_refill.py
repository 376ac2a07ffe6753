"""What ``pghaven wal refill`` shows.

The one idea: a line for each repository, since they fare differently.
"""

from __future__ import annotations

from collections.abc import Sequence

from pghaven.errors import EXIT_DONE, StoreUnreachable
from pghaven.wal.refill import Filled
from pghaven.wal.refilling import RefilledRepository


def render_refill(found: Sequence[RefilledRepository]) -> str:
    """For people."""
    return "".join(f"{one.repository}: {_tell(one)}\n" for one in found)


def describe_refill(cluster: str, found: Sequence[RefilledRepository]) -> dict[str, object]:
    """For programs."""
    return {
        "cluster": cluster,
        "repositories": [
            {
                "repository": one.repository,
                "filled": one.count,
                "from_pg_wal": one.filled.get(Filled.FROM_WAL_DIRECTORY, 0),
                "error": one.error,
                "hint": one.hint,
            }
            for one in found
        ],
    }


def end_refill(found: Sequence[RefilledRepository]) -> int:
    """The exit status: that of a store that cannot be reached when any repository was left without its share."""
    return StoreUnreachable.exit_status if any(one.error is not None for one in found) else EXIT_DONE


def _tell(one: RefilledRepository) -> str:
    count = one.count
    told = "nothing is missing" if count == 0 else f"{count} file{'s' if count > 1 else ''} filled in"
    if one.error is None:
        return told
    hint = "" if one.hint is None else f"\n  {one.hint}"
    return f"failed: {one.error}" + (f" ({told})" if count else "") + hint
